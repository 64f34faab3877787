package live

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// Every reading maps every errno the same way, and keeps it.
func TestReadErrors(t *testing.T) {
	kinds := map[syscall.Errno]error{
		unix.EOPNOTSUPP: host.ErrUnsupported,
		unix.ENOTTY:     host.ErrUnsupported,
		unix.ENOSYS:     host.ErrUnsupported,
		unix.ENODEV:     fs.ErrNotExist,
		unix.ENOENT:     fs.ErrNotExist,
		unix.EPERM:      fs.ErrPermission,
		unix.EACCES:     fs.ErrPermission,
		unix.EROFS:      fs.ErrPermission,
		unix.EIO:        host.ErrInconclusive,
		unix.EBUSY:      host.ErrInconclusive,
		unix.ENOMEM:     host.ErrInconclusive,
		unix.EINVAL:     host.ErrInconclusive,
	}
	for errno, kind := range kinds {
		n := newNIC(func(string, []byte) error { return errno })
		calls := map[string]func() error{
			"features": func() error { _, err := n.features("eth0"); return err },
			"rss":      func() error { _, err := n.rss("eth0"); return err },
			"stats":    func() error { _, err := n.stats("eth0"); return err },
			"fields":   func() error { _, err := n.hashFields("eth0", "udp4"); return err },
		}
		for name, call := range calls {
			want := kind
			if name == "fields" && errno == unix.EINVAL {
				want = host.ErrUnsupported
			}
			t.Run(fmt.Sprintf("%s/%d", name, errno), func(t *testing.T) {
				err := call()
				var kept syscall.Errno
				if !errors.Is(err, want) || !errors.Is(err, errno) || !errors.As(err, &kept) || kept != errno {
					t.Errorf("%v: want %v with errno %d", err, want, errno)
				}
				for _, other := range []error{host.ErrUnsupported, host.ErrInconclusive, fs.ErrNotExist, fs.ErrPermission, host.ErrNotCaptured} {
					if other != want && errors.Is(err, other) {
						t.Errorf("%v: is also %v", err, other)
					}
				}
			})
		}
	}
}

func TestManagedInterruptIsNotPermission(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EIO} {
		err := refusedWrite("write", "proc/irq/38/smp_affinity", errno)
		if errors.Is(err, fs.ErrPermission) || !errors.Is(err, host.ErrUnsupported) || !errors.Is(err, errno) {
			t.Errorf("managed interrupt, errno %d: %v", errno, err)
		}
	}
	if err := refusedWrite("write", "sys/class/net/eth0/threaded", unix.EPERM); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("other file: %v", err)
	}
}
