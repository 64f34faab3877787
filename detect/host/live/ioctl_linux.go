package live

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arenaBytes bounds one ethtool request: 65536 counter names of 32 bytes and
// some. Memory is used only as far as it is touched.
const arenaBytes = 4 << 20

// ioctler sends ethtool requests. The kernel copies as much as the device has
// at that moment, which can be more than a caller made room for when channels are
// added between asking for a size and asking for the data
// (net/ethtool/ioctl.c, ethtool_get_strings and ethtool_get_stats). So requests
// are placed at the end of memory of their own, before a page that nothing may
// touch: too long an answer is EFAULT and no corrupted memory.
type ioctler struct {
	mu    sync.Mutex
	fd    int
	arena []byte // page-aligned; the page behind it is PROT_NONE
	whole []byte // the mapping
}

func openIoctler() (*ioctler, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	page := unix.Getpagesize()
	whole, err := unix.Mmap(-1, 0, arenaBytes+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err == nil {
		err = unix.Mprotect(whole[arenaBytes:], unix.PROT_NONE)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map memory for ethtool requests: %w", err)
	}
	return &ioctler{fd: fd, arena: whole[:arenaBytes:arenaBytes], whole: whole}, nil
}

func (c *ioctler) close() {
	unix.Close(c.fd)
	_ = unix.Munmap(c.whole)
}

// ifreq is struct ifreq with the member that SIOCETHTOOL uses, at its full size
// of 40 bytes (include/uapi/linux/if.h).
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// call sends one request, whose first four bytes are the command, and
// overwrites it with the answer. Errors are bare errnos. Names that the kernel would
// cut short are no device.
func (c *ioctler) call(dev string, request []byte) error {
	var ifr ifreq
	if dev == "" || len(dev) >= len(ifr.name) {
		return unix.ENODEV
	}
	if len(request) > len(c.arena) {
		return unix.E2BIG
	}
	copy(ifr.name[:], dev)
	c.mu.Lock()
	defer c.mu.Unlock()
	place := c.arena[len(c.arena)-len(request):]
	copy(place, request)
	ifr.data = unsafe.Pointer(&place[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(c)
	if errno != 0 {
		return errno
	}
	copy(request, place)
	return nil
}
