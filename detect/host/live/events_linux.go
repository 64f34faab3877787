package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

const (
	// eventBufferBytes is asked of the kernel for each socket. It holds about two
	// thousand link messages of the size that the kernel charges, and is memory
	// only while messages wait.
	eventBufferBytes = 8 << 20
	// messageBytes is the longest message that is taken whole; notifications
	// of links carry no list of virtual functions and have about 1.5 KiB.
	messageBytes = 64 << 10
	// maxPending bounds the different events that wait to be taken; hosts with
	// more devices than that are read anew as a whole.
	maxPending = 4096
)

// OpenEvents listens to what happens to the running machine: links and
// addresses (rtnetlink), ethtool settings and page pools (generic netlink), CPUs,
// devices and queues (uevents), and writes of other processes to files that
// Events.Watch names. It takes no privilege; with CAP_SYS_ADMIN the events of
// files tell who wrote.
//
// Kernels that lack a source (ethtool notifications before 5.6, page pools
// before 6.7) are listened to without it.
func OpenEvents(opts Options) (_ *host.Events, err error) {
	l := &listener{pending: newPending(), links: map[int]linkState{}, addresses: map[string]bool{}}
	defer func() {
		if err != nil {
			_ = l.close()
			err = fmt.Errorf("listen to the running machine: %w", err)
		}
	}()
	if l.files, err = openFiles(opts.root()); err != nil {
		return nil, err
	}
	if l.route, err = openConn(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	// Groups are joined before the state is read: what happens in between is
	// told twice and not missed.
	groups := []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}
	if err := l.listen(unix.NETLINK_ROUTE, groups, l.takeRoute); err != nil {
		return nil, err
	}
	if err := l.readState(); err != nil {
		return nil, err
	}
	if err := l.listenGeneric(); err != nil {
		return nil, err
	}
	// lib/kobject_uevent.c: the kernel sends to group 1, udev to group 2.
	if err := l.listen(unix.NETLINK_KOBJECT_UEVENT, []int{1}, l.takeUevent); err != nil {
		return nil, err
	}
	if l.writes, err = openWrites(l.files, l.pending); err != nil {
		return nil, err
	}
	l.start()
	return &host.Events{
		Ready: l.pending.ready, Take: l.take, Watch: l.writes.watch, Names: l.writes.names(),
		Failed: l.pending.failure, Close: l.close,
	}, nil
}

// pending collects events until they are taken.
type pending struct {
	mu     sync.Mutex
	events map[host.Event]struct{}
	failed error
	closed bool // errors that follow are of closing
	ready  chan struct{}
}

func newPending() *pending {
	return &pending{events: map[host.Event]struct{}{}, ready: make(chan struct{}, 1)}
}

func (p *pending) add(e host.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) >= maxPending {
		clear(p.events)
		e = host.Event{Kind: host.EventsLost}
	}
	p.events[e] = struct{}{}
	p.wake()
}

func (p *pending) wake() {
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

func (p *pending) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.failed = errors.Join(p.failed, err)
	p.wake()
}

func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *pending) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

func (p *pending) take() []host.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Collect(maps.Keys(p.events))
	clear(p.events)
	return out
}

// take hands over what happened. Writes that the reader has not come to yet are
// read first.
func (l *listener) take() []host.Event {
	if _, err := l.writes.drain(); err != nil {
		l.pending.fail(err)
	}
	return l.pending.take()
}

// listener is everything that is listened to. The fields below mu are shared
// by the readers.
type listener struct {
	pending *pending
	files   *files
	route   *conn // for reading the state anew
	writes  *writes
	sources []*source

	mu        sync.Mutex
	links     map[int]linkState
	addresses map[string]bool
	families  map[uint16]string // of generic netlink, by number
}

// source is one socket and what to do with a message of it.
type source struct {
	file *os.File
	take func(b []byte)
	lost func() error // reads anew what the kernel could not tell
}

// listen opens a socket that is a member of multicast groups.
func (l *listener) listen(protocol int, groups []int, take func([]byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return fmt.Errorf("open netlink socket %d: %w", protocol, err)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("netlink %d", protocol))
	l.sources = append(l.sources, &source{file: file, take: take, lost: l.recover})
	// Beyond the limit of the system only with CAP_NET_ADMIN.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBufferBytes); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBufferBytes)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket %d: %w", protocol, err)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("join group %d of netlink %d: %w", g, protocol, err)
		}
	}
	return nil
}

// start reads every source in a goroutine of its own, which is parked in the
// poller while there is nothing to read.
func (l *listener) start() {
	for _, s := range l.sources {
		go func() {
			if err := s.read(); err != nil {
				l.pending.fail(fmt.Errorf("listen on %s: %w", s.file.Name(), err))
			}
		}()
	}
	go func() {
		if err := l.writes.read(); err != nil {
			l.pending.fail(fmt.Errorf("listen to files: %w", err))
		}
	}()
}

func (l *listener) close() error {
	l.pending.close()
	var errs []error
	for _, s := range l.sources {
		errs = append(errs, s.file.Close())
	}
	if l.writes != nil {
		errs = append(errs, l.writes.close())
	}
	if l.route != nil {
		l.route.close()
	}
	return errors.Join(errs...)
}

// read takes messages until the socket is closed.
func (s *source) read() error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, messageBytes)
	for {
		var n, flags int
		var from unix.Sockaddr
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, _, flags, from, readErr = unix.Recvmsg(int(fd), buf, nil, 0)
			return readErr != unix.EAGAIN
		})
		sender, _ := from.(*unix.SockaddrNetlink)
		switch {
		case err != nil:
			return err
		case readErr == unix.EINTR:
		case readErr == unix.ENOBUFS || readErr == nil && flags&unix.MSG_TRUNC != 0:
			err = s.lost()
		case readErr != nil:
			return readErr
		case sender == nil || sender.Pid != 0:
			// Only the kernel is believed: other processes can send to groups too.
		default:
			s.take(buf[:n])
		}
		if err != nil {
			return err
		}
	}
}

// recover reads the links anew after messages were lost.
func (l *listener) recover() error {
	l.pending.add(host.Event{Kind: host.EventsLost})
	return l.readState()
}

// linkState is what is remembered of a link to tell changes from repetitions.
type linkState struct {
	host.Link
	// carriers counts changes of the carrier, so that one that came back before
	// the message was made is seen (IFLA_CARRIER_CHANGES).
	carriers uint32
}

// readState reads links and addresses.
func (l *listener) readState() error {
	links, err := readLinks(l.route)
	var addresses [][]byte
	if err == nil {
		addresses, err = l.route.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	}
	if errors.Is(err, host.ErrInconclusive) {
		// The devices come and go faster than they can be listed. Each of the
		// messages that wait tells its own part.
		return nil
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.links)
	for _, link := range links {
		l.links[link.Index] = linkState{Link: link}
	}
	clear(l.addresses)
	for _, m := range addresses {
		if key, _, err := addressKey(m); err == nil {
			l.addresses[key] = true
		}
	}
	return nil
}

// takeRoute reads a datagram of rtnetlink.
func (l *listener) takeRoute(b []byte) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		l.pending.add(host.Event{Kind: host.EventsLost})
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			l.takeLink(m.Header.Type == unix.RTM_DELLINK, m.Data)
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			l.takeAddress(m.Header.Type == unix.RTM_DELADDR, m.Data)
		}
	}
}

func (l *listener) takeLink(gone bool, b []byte) {
	// Bridges tell of their ports in messages of their own family.
	if len(b) > 0 && b[0] != unix.AF_UNSPEC {
		return
	}
	now, err := decodeLinkState(b)
	if err != nil {
		l.pending.add(host.Event{Kind: host.EventsLost})
		return
	}
	was, known := l.links[now.Index]
	if gone {
		delete(l.links, now.Index)
		l.pending.add(host.Event{Kind: host.DeviceChanged, Dev: now.Name})
		return
	}
	l.links[now.Index] = now
	switch {
	case !known:
		l.pending.add(host.Event{Kind: host.DeviceChanged, Dev: now.Name})
	case was.Name != now.Name:
		l.pending.add(host.Event{Kind: host.DeviceChanged, Dev: was.Name})
		l.pending.add(host.Event{Kind: host.DeviceChanged, Dev: now.Name})
	case was.Link != now.Link || was.carriers != now.carriers && was.carriers != 0:
		l.pending.add(host.Event{Kind: host.LinkChanged, Dev: now.Name})
	}
}

func decodeLinkState(b []byte) (linkState, error) {
	link, err := decodeLink(b)
	if err != nil {
		return linkState{}, err
	}
	out := linkState{Link: link}
	err = eachAttr(b[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		if kind == unix.IFLA_CARRIER_CHANGES && len(value) == 4 {
			out.carriers = binary.NativeEndian.Uint32(value)
		}
		return nil
	})
	return out, err
}

// takeAddress tells new and lost addresses. Routers make hosts repeat theirs
// every few seconds (net/ipv6/addrconf.c, lifetimes): that is no event.
func (l *listener) takeAddress(gone bool, b []byte) {
	key, index, err := addressKey(b)
	if err != nil || l.addresses[key] == !gone {
		return
	}
	if gone {
		delete(l.addresses, key)
	} else {
		l.addresses[key] = true
	}
	l.pending.add(host.Event{Kind: host.AddressChanged, Dev: l.links[index].Name})
}

// addressKey identifies the address of an RTM_NEWADDR message: struct ifaddrmsg,
// then IFA_LOCAL or IFA_ADDRESS.
func addressKey(b []byte) (key string, index int, err error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return "", 0, fmt.Errorf("address message of %d bytes", len(b))
	}
	index = int(binary.NativeEndian.Uint32(b[4:]))
	var local, address []byte
	err = eachAttr(b[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local = value
		case unix.IFA_ADDRESS:
			address = value
		}
		return nil
	})
	if local == nil {
		local = address
	}
	return fmt.Sprintf("%d %d %x", index, b[1], local), index, err
}

// Multicast groups of generic netlink that tell of settings. The group
// "page-pool" tells of receive queues that are set up or taken down by drivers
// that use page pools (net/core/page_pool_user.c).
func eventGroups() map[string][]string {
	return map[string][]string{unix.ETHTOOL_GENL_NAME: {unix.ETHTOOL_MCGRP_MONITOR_NAME}, "netdev": {"page-pool"}}
}

func (l *listener) listenGeneric() error {
	generic, err := openConn(unix.NETLINK_GENERIC)
	if err != nil {
		return err
	}
	defer generic.close()
	l.families = map[uint16]string{}
	var groups []int
	for name, wanted := range eventGroups() {
		id, numbers, err := family{generic, name}.groups(wanted)
		if errors.Is(err, host.ErrUnsupported) {
			continue
		}
		if err != nil {
			return err
		}
		l.families[id] = name
		groups = append(groups, numbers...)
	}
	return l.listen(unix.NETLINK_GENERIC, groups, l.takeGeneric)
}

// groups gives the number of the family and of those of the groups it has.
func (f family) groups(wanted []string) (id uint16, numbers []int, err error) {
	name := appendAttr(nil, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(f.name), 0))
	answers, err := f.conn.request(unix.GENL_ID_CTRL, 0, append(genericHeader(unix.CTRL_CMD_GETFAMILY, 1), name...))
	if err != nil {
		return 0, nil, readError("look up netlink family "+f.name, err, enoentUnsupported)
	}
	for _, a := range answers {
		if len(a) < unix.GENL_HDRLEN {
			continue
		}
		if id, _, err = decodeFamily(a[unix.GENL_HDRLEN:]); err == nil {
			numbers, err = decodeGroups(a[unix.GENL_HDRLEN:], wanted)
		}
	}
	return id, numbers, readError("look up groups of netlink family "+f.name, err, strict)
}

func decodeGroups(attrs []byte, wanted []string) (numbers []int, err error) {
	group := func(_ uint16, one []byte) error {
		var name string
		var id int
		err := eachAttr(one, func(kind uint16, value []byte) (err error) {
			switch kind {
			case unix.CTRL_ATTR_MCAST_GRP_NAME:
				name = attrString(value)
			case unix.CTRL_ATTR_MCAST_GRP_ID:
				id, err = attrInt(value)
			}
			return err
		})
		if slices.Contains(wanted, name) {
			numbers = append(numbers, id)
		}
		return err
	}
	err = eachAttr(attrs, func(kind uint16, value []byte) error {
		if kind != unix.CTRL_ATTR_MCAST_GROUPS {
			return nil
		}
		return eachAttr(value, group)
	})
	return numbers, err
}

// takeGeneric reads a datagram of generic netlink.
func (l *listener) takeGeneric(b []byte) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		l.pending.add(host.Event{Kind: host.EventsLost})
		return
	}
	for _, m := range messages {
		if len(m.Data) < unix.GENL_HDRLEN {
			continue
		}
		command, attrs := m.Data[0], m.Data[unix.GENL_HDRLEN:]
		switch l.families[m.Header.Type] {
		case unix.ETHTOOL_GENL_NAME:
			setting := settingOf(command)
			if setting == "" {
				continue
			}
			l.pending.add(host.Event{Kind: host.SettingChanged, Dev: l.deviceOf(attrs), Setting: setting})
		case "netdev":
			l.pending.add(host.Event{Kind: host.QueuesChanged, Dev: l.poolDevice(attrs)})
		}
	}
}

// settingOf names the settings that a notification of the ethtool family is
// about; "" for those that no row of the table of settings depends on. Numbers
// the library lacks are those of enum ethtool_multicast in
// include/uapi/linux/ethtool_netlink_generated.h.
func settingOf(command uint8) string {
	const rssNotification = 50 // ETHTOOL_MSG_RSS_NTF, since 6.17
	switch command {
	case unix.ETHTOOL_MSG_CHANNELS_NTF:
		return "channels"
	case unix.ETHTOOL_MSG_RINGS_NTF:
		return "rings"
	case unix.ETHTOOL_MSG_COALESCE_NTF:
		return "coalesce"
	case unix.ETHTOOL_MSG_FEATURES_NTF:
		return "features"
	case unix.ETHTOOL_MSG_PRIVFLAGS_NTF:
		return "private flags"
	case rssNotification:
		return "rss"
	}
	return ""
}

// deviceOf reads the name in the header of an ethtool message: attribute 1 of
// every message, with the name as attribute 2 (ETHTOOL_A_HEADER_DEV_NAME).
func (l *listener) deviceOf(attrs []byte) (name string) {
	const header = 1
	// A message that cannot be read is about any device.
	_ = eachAttr(attrs, func(kind uint16, value []byte) error {
		if kind != header {
			return nil
		}
		return eachAttr(value, func(kind uint16, value []byte) error {
			if kind == unix.ETHTOOL_A_HEADER_DEV_NAME {
				name = attrString(value)
			}
			return nil
		})
	})
	return name
}

// poolDevice reads the device of a page pool: NETDEV_A_PAGE_POOL_IFINDEX
// (include/uapi/linux/netdev.h).
func (l *listener) poolDevice(attrs []byte) string {
	const ifindex = 2
	index := 0
	_ = eachAttr(attrs, func(kind uint16, value []byte) (err error) {
		if kind == ifindex {
			index, err = attrInt(value)
		}
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.links[index].Name
}

// takeUevent reads one uevent.
func (l *listener) takeUevent(b []byte) {
	if e, ok := decodeUevent(b); ok {
		l.pending.add(e)
	}
}

// decodeUevent reads "ACTION@PATH", zero, and zero-terminated KEY=VALUE strings
// (lib/kobject_uevent.c). Only CPUs, devices and queues matter.
func decodeUevent(b []byte) (host.Event, bool) {
	var subsystem, action, dev, at string
	for len(b) > 0 {
		field := attrString(b)
		b = b[min(len(field)+1, len(b)):]
		key, value := cutKey(field)
		switch key {
		case "SUBSYSTEM":
			subsystem = value
		case "ACTION":
			action = value
		case "INTERFACE":
			dev = value
		case "DEVPATH":
			at = value
		}
	}
	switch subsystem {
	case "cpu":
		if action == "online" || action == "offline" {
			return host.Event{Kind: host.CPUChanged}, true
		}
	case "net":
		if action != "change" {
			return host.Event{Kind: host.DeviceChanged, Dev: dev}, true
		}
	case "queues":
		return host.Event{Kind: host.QueuesChanged, Dev: deviceOfQueue(at)}, true
	}
	return host.Event{}, false
}

func cutKey(field string) (key, value string) {
	key, value, ok := strings.Cut(field, "=")
	if !ok {
		return "", ""
	}
	return key, value
}

// deviceOfQueue takes the device out of "/devices/…/net/DEV/queues/rx-0".
func deviceOfQueue(at string) string {
	above, ok := strings.CutSuffix(path.Dir(at), "/queues")
	if !ok {
		return ""
	}
	return above[strings.LastIndexByte(above, '/')+1:]
}
