package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// writes tells of files that other processes write. The kernel tells nobody
// when it changes a setting of procfs or sysfs itself, but a write(2) to their
// files passes the notifications of every file (fs/read_write.c, vfs_write):
// that is how irqbalance, tuned and shells set interrupts, masks and sysctls. So
// another writer is noticed at once and nothing need be polled.
//
// fanotify tells who wrote and takes CAP_SYS_ADMIN; without that, inotify tells
// of the same writes.
type writes struct {
	files   *files
	pending *pending
	file    *os.File // of fanotify or inotify
	fd      int      // of file, which must stay as it is: File.Fd may make it blocking
	who     bool     // fanotify

	reading sync.Mutex // holds buf and closed
	buf     [messageBytes]byte
	closed  bool

	mu    sync.Mutex
	marks map[string]*mark
	byID  map[identity]string // fanotify
	byWD  map[int32]string    // inotify
}

// identity is a file as the kernel compares them.
type identity struct{ dev, inode uint64 }

// mark is one watched file.
type mark struct {
	id identity
	wd int32
	// pin is an O_PATH descriptor. Procfs makes a new inode whenever a name has
	// dropped out of the cache (fs/proc/inode.c, proc_get_inode), and a mark stays
	// with the inode; an open descriptor keeps the name in the cache.
	pin int
}

func openWrites(f *files, p *pending) (*writes, error) {
	w := &writes{files: f, pending: p, marks: map[string]*mark{}, byID: map[identity]string{}, byWD: map[int32]string{}}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if w.who = err == nil; w.who {
		w.fd, w.file = fd, os.NewFile(uintptr(fd), "fanotify")
		return w, nil
	}
	// EPERM without the privilege, ENOSYS without the option of the kernel.
	return openInotify(w)
}

func openInotify(w *writes) (*writes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	w.fd, w.file = fd, os.NewFile(uintptr(fd), "inotify")
	return w, nil
}

func (w *writes) names() bool { return w.who }

func (w *writes) close() error {
	// Whoever reads holds the descriptor until this lock is free: it must be free
	// before the descriptor is closed, which waits for them.
	w.reading.Lock()
	w.closed = true
	w.reading.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, m := range w.marks {
		w.drop(name, m, false)
	}
	return w.file.Close()
}

// watch makes these the watched files. Those that are watched and still the
// same file are left as they are, so that no write is missed.
func (w *writes) watch(names []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	keep := make(map[string]bool, len(names))
	var errs []error
	for _, name := range names {
		keep[name] = true
		err := w.add(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && len(errs) < 3 {
			errs = append(errs, fmt.Errorf("watch %s: %w", name, err))
		}
	}
	for name, m := range w.marks {
		if !keep[name] {
			w.drop(name, m, true)
		}
	}
	return errors.Join(errs...)
}

func (w *writes) add(name string) error {
	pin, err := w.files.open(name, unix.O_PATH)
	if err != nil {
		if m, ok := w.marks[name]; ok {
			w.drop(name, m, true)
		}
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(pin, &stat); err != nil {
		unix.Close(pin)
		return err
	}
	id := identity{stat.Dev, stat.Ino}
	if m, ok := w.marks[name]; ok && m.id == id {
		unix.Close(pin)
		return nil
	} else if ok {
		w.drop(name, m, true)
	}
	m := &mark{id: id, pin: pin}
	if err := w.set(m); err != nil {
		unix.Close(pin)
		return err
	}
	w.marks[name], w.byID[id] = m, name
	if !w.who {
		w.byWD[m.wd] = name
	}
	if !strings.HasPrefix(name, "proc/") {
		// Sysfs finds the same inode again (fs/kernfs/inode.c); a descriptor there
		// would keep the mount busy.
		unix.Close(m.pin)
		m.pin = -1
	}
	return nil
}

// set puts the mark on the pinned file.
func (w *writes) set(m *mark) error {
	at := "/proc/self/fd/" + strconv.Itoa(m.pin)
	if w.who {
		return unix.FanotifyMark(w.fd, unix.FAN_MARK_ADD, unix.FAN_MODIFY, unix.AT_FDCWD, at)
	}
	wd, err := unix.InotifyAddWatch(w.fd, at, unix.IN_MODIFY)
	m.wd = int32(wd)
	return err
}

// drop takes a mark away. That the file has gone already is as well.
func (w *writes) drop(name string, m *mark, unmark bool) {
	if unmark {
		w.unset(name, m)
	}
	if m.pin >= 0 {
		unix.Close(m.pin)
	}
	delete(w.marks, name)
	delete(w.byID, m.id)
	delete(w.byWD, m.wd)
}

func (w *writes) unset(name string, m *mark) {
	if !w.who {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(m.wd))
		return
	}
	pin := m.pin
	if pin < 0 {
		var err error
		if pin, err = w.files.open(name, unix.O_PATH); err != nil {
			return // the mark went with the inode
		}
		defer unix.Close(pin)
	}
	_ = unix.FanotifyMark(w.fd, unix.FAN_MARK_REMOVE, unix.FAN_MODIFY, unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(pin))
}

// read takes events until the descriptor is closed.
func (w *writes) read() error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return w.unlessClosed(err)
	}
	for {
		var failed error
		err := conn.Read(func(uintptr) bool {
			var some bool
			some, failed = w.drain()
			return some || failed != nil
		})
		if err = errors.Join(err, failed); err != nil {
			return w.unlessClosed(err)
		}
	}
}

func (w *writes) unlessClosed(err error) error {
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.closed {
		return nil
	}
	return err
}

// drain takes the events that there are. Under its lock an event is either in the
// kernel's queue or pending: whoever drains after a write of his own has that
// behind him.
func (w *writes) drain() (some bool, err error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.closed {
		return false, os.ErrClosed
	}
	// Somebody who writes without end is not followed without end.
	for range 100 {
		n, err := unix.Read(w.fd, w.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return some, nil
		case err != nil && w.who && unreadable(err):
			// The event of a file that cannot be opened any more is dropped
			// (fs/notify/fanotify/fanotify_user.c, copy_event_to_user).
			w.pending.add(host.Event{Kind: host.FileWritten})
			some = true
		case err != nil:
			return some, fmt.Errorf("read of writes: %w", err)
		case w.who:
			w.takeFanotify(w.buf[:n])
			some = true
		default:
			w.takeInotify(w.buf[:n])
			some = true
		}
	}
	return some, nil
}

func unreadable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EIO) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO)
}

// takeFanotify reads struct fanotify_event_metadata: length, version, length of
// the head, mask, descriptor, process.
func (w *writes) takeFanotify(b []byte) {
	const head = 24
	for len(b) >= head {
		size := int(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint64(b[8:])
		fd, pid := int(int32(binary.NativeEndian.Uint32(b[16:]))), int(int32(binary.NativeEndian.Uint32(b[20:])))
		if size < head || size > len(b) {
			w.pending.add(host.Event{Kind: host.EventsLost})
			return
		}
		b = b[size:]
		if mask&unix.FAN_Q_OVERFLOW != 0 {
			w.pending.add(host.Event{Kind: host.EventsLost})
		}
		if fd >= 0 {
			w.written(fd, pid)
		}
	}
}

// written tells of one write. Own ones are nothing new.
func (w *writes) written(fd, pid int) {
	defer unix.Close(fd)
	if pid == os.Getpid() {
		return
	}
	e := host.Event{Kind: host.FileWritten, PID: pid, By: w.comm(pid)}
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) == nil {
		w.mu.Lock()
		e.Path = w.byID[identity{stat.Dev, stat.Ino}]
		w.mu.Unlock()
	}
	w.pending.add(e)
}

// comm is the name of a process, "" if it has ended.
func (w *writes) comm(pid int) string {
	if pid <= 0 {
		return ""
	}
	text, err := w.files.ReadFile("proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// takeInotify reads struct inotify_event: watch, mask, cookie, length of a name.
// It does not tell own writes from others'.
func (w *writes) takeInotify(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			w.pending.add(host.Event{Kind: host.EventsLost})
			return
		}
		b = b[size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			w.pending.add(host.Event{Kind: host.EventsLost})
			continue
		}
		if mask&unix.IN_MODIFY == 0 {
			continue
		}
		w.mu.Lock()
		name := w.byWD[wd]
		w.mu.Unlock()
		w.pending.add(host.Event{Kind: host.FileWritten, Path: name})
	}
}
