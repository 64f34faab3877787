package live

import (
	"errors"
	"fmt"
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
type conn struct {
	proto   int
	sockets map[int]*nl.SocketHandle
}

// openConn opens a socket in the caller's network namespace. With texts the
// kernel adds its reason to refusals; for dumps they stay off, because the
// library misreads a reason at the end of a dump (nl.ExecuteIter expects the
// echoed request there).
func openConn(proto int, texts bool) (*conn, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), proto)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket %d: %w", proto, err)
	}
	limit := unix.NsecToTimeval(netlinkTimeout.Nanoseconds())
	err = errors.Join(socket.SetSendTimeout(&limit), socket.SetReceiveTimeout(&limit))
	if texts && err == nil {
		err = socket.SetExtAck(true)
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("set up netlink socket %d: %w", proto, err)
	}
	return &conn{proto: proto, sockets: map[int]*nl.SocketHandle{proto: {Socket: socket}}}, nil
}

func (c *conn) close() { c.sockets[c.proto].Socket.Close() }

// request sends one message and gives the answers' payloads. Interrupted calls
// and torn dumps are repeated; a dump that stays torn is inconclusive.
func (c *conn) request(kind uint16, flags int, payload []byte) ([][]byte, error) {
	for attempt := 1; ; attempt++ {
		req := nl.NewNetlinkRequest(int(kind), flags)
		req.Sockets = c.sockets
		req.AddRawData(payload)
		answers, err := req.Execute(c.proto, 0)
		torn := errors.Is(err, nl.ErrDumpInterrupted)
		if !torn && !errors.Is(err, unix.EINTR) {
			return answers, err
		}
		if attempt < dumpAttempts {
			continue
		}
		if torn {
			return nil, fmt.Errorf("%w: changed during each of %d dumps", host.ErrInconclusive, attempt)
		}
		return nil, err
	}
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
			id = nl.NativeEndian().Uint16(value)
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

func genericHeader(command, version uint8) []byte {
	header := nl.Genlmsg{Command: command, Version: version}
	return header.Serialize()
}
