package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

const (
	// dumpAttempts bounds repeats of a dump that the kernel marks as torn
	// (NLM_F_DUMP_INTR): devices came or went meanwhile.
	dumpAttempts = 5
	// netlinkTimeout bounds one answer. Devices are read under the RTNL lock,
	// which a NIC reset holds for seconds.
	netlinkTimeout = 30 * time.Second
)

// conn is one netlink socket. Safe for concurrent use: requests take turns.
//
// Of the library only messages and sockets are used. Its NetlinkRequest.Execute
// ends a dump at the first answer without NLM_F_MULTI, and the netdev family
// sets that flag on none (net/core/netdev-genl.c, genlmsg_iput).
type conn struct {
	socket *nl.NetlinkSocket
}

// openConn opens a socket in the caller's network namespace. The kernel is
// asked to add its reason to refusals.
func openConn(proto int) (*conn, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), proto)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket %d: %w", proto, err)
	}
	limit := unix.NsecToTimeval(netlinkTimeout.Nanoseconds())
	err = errors.Join(socket.SetSendTimeout(&limit), socket.SetReceiveTimeout(&limit), socket.SetExtAck(true))
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("set up netlink socket %d: %w", proto, err)
	}
	return &conn{socket: socket}, nil
}

func (c *conn) close() { c.socket.Close() }

// request sends one message and gives the answers' payloads. Interrupted calls
// and torn dumps are repeated; a dump that stays torn is inconclusive.
func (c *conn) request(kind uint16, flags int, payload []byte) ([][]byte, error) {
	c.socket.Lock()
	defer c.socket.Unlock()
	for attempt := 1; ; attempt++ {
		answers, err := c.exchange(kind, flags, payload)
		repeat := errors.Is(err, errTorn) || errors.Is(err, unix.EINTR)
		switch {
		case !repeat:
			return answers, err
		case attempt < dumpAttempts:
		case errors.Is(err, errTorn):
			return nil, fmt.Errorf("%w: %w in each of %d dumps", host.ErrInconclusive, err, attempt)
		default:
			return nil, err
		}
	}
}

// errTorn means that a dump mixes two states.
var errTorn = errors.New("changed meanwhile")

// exchange makes one attempt. What is left of an earlier one that failed
// midway has another sequence number and is dropped.
func (c *conn) exchange(kind uint16, flags int, payload []byte) ([][]byte, error) {
	req := nl.NewNetlinkRequest(int(kind), flags)
	req.AddRawData(payload)
	if err := c.socket.Send(req); err != nil {
		return nil, err
	}
	reply := reply{seq: req.Seq, single: flags&(unix.NLM_F_DUMP|unix.NLM_F_ACK) == 0}
	for !reply.done {
		messages, from, err := c.socket.Receive()
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if from.Pid != 0 || m.Header.Seq != reply.seq || reply.done {
				continue
			}
			if err := reply.take(m); err != nil {
				return nil, err
			}
		}
	}
	return reply.answers, nil
}

// reply gathers what the kernel says to one request.
type reply struct {
	seq     uint32
	single  bool // one answer and nothing after it
	answers [][]byte
	torn    bool
	done    bool
}

func (r *reply) take(m syscall.NetlinkMessage) error {
	r.torn = r.torn || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
	if m.Header.Type != unix.NLMSG_DONE && m.Header.Type != unix.NLMSG_ERROR {
		r.answers = append(r.answers, m.Data)
		r.done = r.single
		return nil
	}
	r.done = true
	err := refusal(m.Header.Type, m.Header.Flags, m.Data)
	if err == nil && r.torn {
		return errTorn
	}
	return err
}

// Flags and attributes of the last message of an exchange
// (include/uapi/linux/netlink.h).
const (
	flagCapped  = 0x100 // NLM_F_CAPPED: the request is echoed without its payload
	flagTexts   = 0x200 // NLM_F_ACK_TLVS
	errAttrText = 1     // NLMSGERR_ATTR_MSG
)

// refusal reads NLMSG_DONE and NLMSG_ERROR: an errno, in the latter the
// request's echo, and attributes with the kernel's text. Nil means success.
func refusal(kind, flags uint16, b []byte) error {
	if len(b) < 4 {
		if kind == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("%w: netlink error of %d bytes", host.ErrInconclusive, len(b))
	}
	errno := -int32(binary.NativeEndian.Uint32(b))
	if errno == 0 {
		return nil
	}
	err := error(syscall.Errno(errno))
	if text := refusalText(kind, flags, b[4:]); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

func refusalText(kind, flags uint16, b []byte) string {
	if flags&flagTexts == 0 {
		return ""
	}
	if kind == unix.NLMSG_ERROR {
		if len(b) < unix.NLMSG_HDRLEN {
			return ""
		}
		echo := uint64(unix.NLMSG_HDRLEN)
		if flags&flagCapped == 0 {
			echo = max(echo, uint64(binary.NativeEndian.Uint32(b)+3)&^3)
		}
		if echo > uint64(len(b)) {
			return ""
		}
		b = b[echo:]
	}
	text := ""
	// A text that cannot be read is as good as none.
	_ = eachAttr(b, func(kind uint16, value []byte) error {
		if kind == errAttrText {
			text = attrString(value)
		}
		return nil
	})
	return text
}

// family is one generic netlink family on one socket.
type family struct {
	conn *conn
	name string
}

// request sends one command with its attributes and gives the answers'
// attributes. The number of the family is resolved each time, which costs one
// message: a module that is loaded again has a new one.
func (f family) request(command uint8, flags int, attrs []byte) ([][]byte, error) {
	id, version, err := f.resolve()
	if err != nil {
		return nil, err
	}
	answers, err := f.conn.request(id, flags, append(genericHeader(command, version), attrs...))
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		if len(a) < unix.GENL_HDRLEN {
			return nil, fmt.Errorf("%w: answer of %d bytes", host.ErrInconclusive, len(a))
		}
		answers[i] = a[unix.GENL_HDRLEN:]
	}
	return answers, nil
}

func (f family) resolve() (id uint16, version uint8, err error) {
	name := appendAttr(nil, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(f.name), 0))
	answers, err := f.conn.request(unix.GENL_ID_CTRL, 0, append(genericHeader(unix.CTRL_CMD_GETFAMILY, 1), name...))
	if err != nil {
		return 0, 0, readError("look up netlink family "+f.name, err, enoentUnsupported)
	}
	for _, a := range answers {
		if len(a) < unix.GENL_HDRLEN {
			continue
		}
		id, version, err = decodeFamily(a[unix.GENL_HDRLEN:])
	}
	if err == nil && id == 0 {
		err = errors.New("no number in the answer")
	}
	return id, version, readError("look up netlink family "+f.name, err, strict)
}

func decodeFamily(attrs []byte) (id uint16, version uint8, err error) {
	err = eachAttr(attrs, func(kind uint16, value []byte) error {
		switch kind {
		case unix.CTRL_ATTR_FAMILY_ID:
			if len(value) != 2 {
				return fmt.Errorf("family number of %d bytes", len(value))
			}
			id = binary.NativeEndian.Uint16(value)
		case unix.CTRL_ATTR_VERSION:
			n, err := attrUint(value)
			version = uint8(n)
			return err
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return id, version, nil
}

// genericHeader is struct genlmsghdr. The library's nl.Genlmsg is not used: it
// has two of the four bytes and sends whatever lies behind it in memory for the
// reserved ones, which the kernel refuses for newer commands
// (net/netlink/genetlink.c, genl_header_check).
func genericHeader(command, version uint8) []byte {
	return []byte{command, version, 0, 0}
}
