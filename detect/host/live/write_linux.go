package live

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// OpenWriter gives the running machine for changing. Opening needs no
// privilege; a write that the caller may not do comes as fs.ErrPermission.
//
// Setters of a device read its state immediately before they write, touch
// nothing if it is already as wanted, and leave alone what the argument does
// not name:
//
//   - SetChannels keeps the other channels where Other is 0.
//   - SetRings keeps a ring where its size is 0, and mini and jumbo rings always.
//   - SetCoalesce changes the names in Values and the switches that are not nil; it
//     refuses to change tx-frames of virtio_net.
//   - SetFeatures reads back and names in its error what was not granted.
//   - SetRSS takes a table of the device's size; an empty one restores the
//     driver's default. Key and hash function stay.
//   - SetNAPI takes the whole object as Netdev.NAPIs gives it, identified by ID,
//     and sends only the settings that differ.
//   - SetHashFields keeps fields that have no letter.
func OpenWriter(opts Options) (*host.Writer, error) {
	m, err := openMachine(opts)
	if err != nil {
		return nil, err
	}
	return &host.Writer{
		WriteFile: m.writeFile,
		SetChannels: func(dev string, c host.Channels) error {
			return m.change(dev, "channels", func() error { return m.lib.setChannels(dev, c) })
		},
		SetRings: func(dev string, r host.Rings) error {
			return m.change(dev, "rings", func() error { return m.lib.setRings(dev, r) })
		},
		SetCoalesce: func(dev string, c host.Coalesce) error {
			return m.change(dev, "coalescing", func() error { return m.coalesce.write(dev, c) })
		},
		SetFeatures: func(dev string, on map[string]bool) error {
			return m.change(dev, "features", func() error { return m.nic.writeFeatures(dev, on) })
		},
		SetRSS: func(dev string, table []uint32) error {
			return m.change(dev, "rss table", func() error { return m.nic.writeRSS(dev, table) })
		},
		SetHashFields: func(dev, flow, fields string) error {
			return m.change(dev, "hash fields", func() error { return m.nic.writeHashFields(dev, flow, fields) })
		},
		SetNAPI:  m.setNAPI,
		BanIRQs:  m.banIRQs,
		MayWrite: m.mayWrite,
	}, nil
}

func (m *machine) banIRQs(irqs []int) error {
	defer runtime.KeepAlive(m)
	return m.irqbalance().Ban(irqs)
}

func (m *machine) change(dev, what string, f func() error) error {
	defer runtime.KeepAlive(m)
	if err := checkName(dev); err != nil {
		return writeError(fmt.Sprintf("set %s of %q", what, dev), err)
	}
	return f()
}

func (m *machine) setNAPI(want host.NAPI) error {
	defer runtime.KeepAlive(m)
	op := fmt.Sprintf("set napi %d of interface %d to defer-hard-irqs %d, gro-flush-timeout %d ns, irq-suspend-timeout %d ns, threaded %d",
		want.ID, want.IfIndex, want.DeferHardIRQs, want.GROFlushTimeout, want.IRQSuspend, want.Threaded)
	if err := within(op, math.MaxInt32, want.ID, want.Threaded); err != nil {
		return err
	}
	now, err := m.netdev.napi(want.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if want.IfIndex != 0 && want.IfIndex != now.IfIndex {
		return failure(op, fs.ErrNotExist, "the napi belongs to interface %d", now.IfIndex)
	}
	attrs := napiChanges(now, want)
	if attrs == nil {
		return nil
	}
	_, err = m.netdev.family.request(netdevNAPISet, unix.NLM_F_ACK, attrs)
	return writeError(op, err)
}

// writable are the trees that hold settings.
func writable(name string) bool {
	if !fs.ValidPath(name) {
		return false
	}
	return strings.HasPrefix(name, "proc/sys/") || strings.HasPrefix(name, "proc/irq/") || strings.HasPrefix(name, "sys/")
}

// writeFile hands the data to the kernel in one write(2), because procfs and
// sysfs take each one as a whole value. An empty one is refused: the kernel
// takes it for success and does nothing.
func (m *machine) writeFile(name string, data []byte) error {
	defer runtime.KeepAlive(m)
	op := fmt.Sprintf("write %q to %s", valueText(data), name)
	switch {
	case !writable(name):
		return noSetting(op)
	case len(data) == 0:
		return failure(op, nil, "an empty write changes nothing")
	}
	fd, err := m.files.open(name, unix.O_WRONLY)
	if err != nil {
		return writeError(op, bareError(err))
	}
	defer unix.Close(fd)
	n, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, data) })
	if err != nil {
		return refusedWrite(op, name, err)
	}
	if n != len(data) {
		return failure(op, nil, "the kernel took %d of %d bytes", n, len(data))
	}
	return nil
}

func noSetting(op string) error {
	return failure(op, fs.ErrPermission, "only files below proc/sys, proc/irq and sys are written")
}

// mayWrite does not open the file for writing, which those who watch it would
// be told of.
func (m *machine) mayWrite(name string) error {
	defer runtime.KeepAlive(m)
	op := "write to " + name
	if !writable(name) {
		return noSetting(op)
	}
	fd, err := m.files.open(name, unix.O_PATH)
	if err != nil {
		return writeError(op, bareError(err))
	}
	defer unix.Close(fd)
	err = unix.Faccessat2(fd, "", unix.W_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		err = mountedForWriting(fd)
	}
	if errors.Is(err, unix.EROFS) {
		top := treeOf(name)
		return failure(op, fs.ErrPermission, "%s is mounted read-only here: mount -o remount,rw %s, start the container privileged, or run napitune outside of it", top, top)
	}
	return writeError(op, err)
}

// mountedForWriting is for kernels before 5.8 and seccomp filters that do not
// know faccessat2 and answer EPERM: the question of containers is answered still.
func mountedForWriting(fd int) error {
	var at unix.Statfs_t
	if err := unix.Fstatfs(fd, &at); err != nil || at.Flags&unix.ST_RDONLY == 0 {
		return nil // what else may be wrong the write finds out
	}
	return unix.EROFS
}

// treeOf is the mount that containers make read-only, as a rule.
func treeOf(name string) string {
	for _, tree := range []string{"proc/sys", "proc/irq"} {
		if strings.HasPrefix(name, tree+"/") {
			return "/" + tree
		}
	}
	return "/sys"
}

// refusedWrite knows that the file of an interrupt that the kernel manages, or
// cannot move, is open to root and refuses every value: with EIO up to Linux 6.11
// and EPERM after (kernel/irq/proc.c, write_irq_affinity). More privilege does not help.
func refusedWrite(op, name string, err error) error {
	if strings.HasPrefix(name, "proc/irq/") && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EIO)) {
		return failure(op, host.ErrUnsupported, "the kernel manages this interrupt or cannot move it: %w", err)
	}
	return writeError(op, err)
}

// bareError drops the path from a PathError: the operation names it already.
func bareError(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// valueText is the value without its line end, short enough for an error line.
func valueText(data []byte) string {
	const shown = 200
	text := strings.TrimSuffix(string(data), "\n")
	if len(text) > shown {
		text = text[:shown] + "…"
	}
	return text
}
