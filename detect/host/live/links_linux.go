package live

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// iflaXDPAttached is the member of IFLA_XDP that says whether and how a program
// is attached; 0 is XDP_ATTACHED_NONE (include/uapi/linux/if_link.h).
const iflaXDPAttached = 2

// rtextSkipStats asks for links without counters, the costliest part of the
// answer (include/uapi/linux/rtnetlink.h, RTEXT_FILTER_SKIP_STATS).
const rtextSkipStats = 1 << 3

// readLinks lists the devices of the namespace in the kernel's order, which is
// that of their indices.
func readLinks(c *conn) ([]host.Link, error) {
	const op = "list links"
	payload := make([]byte, unix.SizeofIfInfomsg)
	payload = appendUint32Attr(payload, unix.IFLA_EXT_MASK, rtextSkipStats)
	answers, err := c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, payload)
	if err != nil {
		return nil, readError(op, err, strict)
	}
	links := make([]host.Link, 0, len(answers))
	for _, a := range answers {
		link, err := decodeLink(a)
		if err != nil {
			return nil, failure(op, host.ErrInconclusive, "%w", err)
		}
		links = append(links, link)
	}
	return links, nil
}

// decodeLink reads one RTM_NEWLINK payload: struct ifinfomsg and attributes.
// The library's decoder is not used: it renames kinds ("tun" is "tuntap") and
// slices attributes without looking at their length.
func decodeLink(b []byte) (host.Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return host.Link{}, fmt.Errorf("link message of %d bytes", len(b))
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	link := host.Link{
		Index:    int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Up:       flags&unix.IFF_UP != 0,
		Running:  flags&unix.IFF_RUNNING != 0,
		Loopback: flags&unix.IFF_LOOPBACK != 0,
	}
	err := eachAttr(b[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		if err := setLinkAttr(&link, kind, value); err != nil {
			return fmt.Errorf("link %d attribute %d: %w", link.Index, kind, err)
		}
		return nil
	})
	if err == nil && (link.Name == "" || link.Index <= 0) {
		err = fmt.Errorf("link %d without a name", link.Index)
	}
	if err != nil {
		return host.Link{}, err
	}
	return link, nil
}

func setLinkAttr(link *host.Link, kind uint16, value []byte) (err error) {
	switch kind {
	case unix.IFLA_IFNAME:
		link.Name = attrString(value)
	case unix.IFLA_MTU:
		link.MTU, err = attrInt(value)
	case unix.IFLA_QDISC:
		link.Qdisc = attrString(value)
	case unix.IFLA_LINK:
		link.Parent, err = attrInt(value)
	case unix.IFLA_LINK_NETNSID:
		link.Foreign = true
	case unix.IFLA_MASTER:
		link.Master, err = attrInt(value)
	case unix.IFLA_NUM_RX_QUEUES:
		link.RxQueues, err = attrInt(value)
	case unix.IFLA_NUM_TX_QUEUES:
		link.TxQueues, err = attrInt(value)
	case unix.IFLA_LINKINFO:
		return eachAttr(value, func(kind uint16, value []byte) error {
			if kind == unix.IFLA_INFO_KIND {
				link.Kind = attrString(value)
			}
			return nil
		})
	case unix.IFLA_XDP:
		return eachAttr(value, func(kind uint16, value []byte) error {
			if kind != iflaXDPAttached {
				return nil
			}
			mode, err := attrUint(value)
			link.XDP = mode != 0
			return err
		})
	}
	return err
}
