package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// scratchBytes is the first buffer of a reading. Nearly every file of
	// procfs and sysfs fits, so that one read(2) brings the text and a second
	// the end of the file.
	scratchBytes = 64 << 10
	// maxFileBytes bounds one file. The largest file that is read,
	// /proc/interrupts, has about 11 bytes per CPU and line: 13 MB with 1024 CPUs
	// and 1200 interrupts.
	maxFileBytes = 256 << 20
	// openAttempts bounds retries of openat2, which answers EAGAIN when ".."
	// was followed while something was renamed or mounted (fs/namei.c).
	openAttempts = 8
)

// files is the tree below one root. Everything goes through os.Root; only
// opening for ReadFile and for writing has a short cut, because os.Root resolves
// each path component with a system call of its own and the symbolic links of
// sysfs make that twenty (17.6 µs against 3.1 µs measured for one queue file).
type files struct {
	fs.ReadLinkFS // of root: Open, ReadLink, Lstat

	root *os.Root
	own  bool     // the root of this machine: PIDs are those of system calls
	dir  *os.File // the root directory, for openat2
	fd   int      // of dir

	noOpenat2 atomic.Bool // before Linux 5.6, or forbidden by seccomp
	scratch   sync.Pool   // *[]byte of scratchBytes
}

var (
	_ fs.ReadFileFS = (*files)(nil)
	_ fs.ReadDirFS  = (*files)(nil)
	_ fs.StatFS     = (*files)(nil)
	_ fs.ReadLinkFS = (*files)(nil)
)

func openFiles(path string) (*files, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	tree, ok := root.FS().(fs.ReadLinkFS)
	if !ok {
		return nil, fmt.Errorf("open %s: os.Root gives no symbolic links", path)
	}
	f := &files{ReadLinkFS: tree, root: root, own: path == "/", dir: dir, fd: int(dir.Fd())}
	f.scratch.New = func() any {
		b := make([]byte, scratchBytes)
		return &b
	}
	return f, nil
}

// ReadDir lists a directory, sorted by name.
func (f *files) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.ReadLinkFS, name) }

// Stat describes a file, following symbolic links.
func (f *files) Stat(name string) (fs.FileInfo, error) { return fs.Stat(f.ReadLinkFS, name) }

// ReadFile reads a file to its end, whatever size the file system reports:
// procfs says 0 and sysfs says one page.
func (f *files) ReadFile(name string) ([]byte, error) {
	if irq, ok := movableIRQ(name); ok {
		return f.readStanding(name, irq)
	}
	return f.readOnce(name)
}

func (f *files) readOnce(name string) ([]byte, error) {
	fd, err := f.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	scratch := f.scratch.Get().(*[]byte)
	defer f.scratch.Put(scratch)
	data, err := readToEnd(fd, *scratch)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// readToEnd reads until read(2) says end of file. A short read is no end: a seq
// file hands out one page at a time (fs/seq_file.c), so that the number of
// calls for a large file is the kernel's choice. The answer never aliases scratch.
func readToEnd(fd int, scratch []byte) ([]byte, error) {
	buf, n := scratch, 0
	for {
		if n == len(buf) {
			if n >= maxFileBytes {
				return nil, fmt.Errorf("more than %d bytes", maxFileBytes)
			}
			grown := make([]byte, 2*len(buf))
			copy(grown, buf)
			buf = grown
		}
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, buf[n:]) })
		if err != nil {
			return nil, err
		}
		if got == 0 {
			return detach(buf[:n], scratch), nil
		}
		n += got
	}
}

func detach(data, scratch []byte) []byte {
	if len(data) > len(scratch) {
		return data
	}
	return append(make([]byte, 0, len(data)), data...)
}

// open opens a file below the root and gives a raw descriptor: an os.File would
// add sysfs files to the poller, which costs two more system calls.
func (f *files) open(name string, flags int) (int, error) {
	if !fs.ValidPath(name) {
		return -1, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	defer runtime.KeepAlive(f)
	fd, err := f.openat2(name, flags|unix.O_CLOEXEC)
	switch {
	case err == nil:
		return fd, nil
	case mayBeOpenat2(err):
		return f.openSlowly(name, flags)
	}
	return -1, &fs.PathError{Op: "open", Path: name, Err: err}
}

// mayBeOpenat2 tells refusals that may be about openat2 and not about the file:
// an old kernel, a seccomp filter (EPERM), or too many renames meanwhile.
func mayBeOpenat2(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN)
}

func (f *files) openat2(name string, flags int) (int, error) {
	if f.noOpenat2.Load() {
		return -1, unix.ENOSYS
	}
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_IN_ROOT}
	for attempt := 1; ; attempt++ {
		fd, err := unix.Openat2(f.fd, name, &how)
		if err == unix.ENOSYS {
			f.noOpenat2.Store(true)
		}
		again := err == unix.EINTR || err == unix.EAGAIN
		if !again || attempt == openAttempts {
			return fd, err
		}
	}
}

func (f *files) openSlowly(name string, flags int) (int, error) {
	file, err := f.root.OpenFile(name, flags, 0)
	if err != nil {
		return -1, err
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
