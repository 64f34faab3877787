package live

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// callError is a refusal by the kernel with what it means for the caller.
//
// It unwraps to its kind only and answers for the errno itself. A managed
// interrupt refuses with EPERM, which errors.Is would otherwise take for
// fs.ErrPermission and the user for "run as root".
type callError struct {
	op    string // "read channels of eth0", "set rings of eth0 to rx 512 tx 512"
	kind  error  // a sentinel of package host or io/fs, nil if none fits
	cause error
}

func (e *callError) Error() string {
	if e.kind == nil {
		return fmt.Sprintf("%s: %v", e.op, e.cause)
	}
	return fmt.Sprintf("%s: %v: %v", e.op, e.kind, e.cause)
}

func (e *callError) Unwrap() error { return e.kind }

// Is matches the very errno, so that errors.Is(err, unix.EBUSY) works.
func (e *callError) Is(target error) bool {
	want, ok := target.(syscall.Errno)
	if !ok {
		return false
	}
	got, ok := errnoOf(e.cause)
	return ok && got == want
}

// As gives out the errno.
func (e *callError) As(target any) bool {
	out, ok := target.(*syscall.Errno)
	if !ok {
		return false
	}
	got, ok := errnoOf(e.cause)
	if ok {
		*out = got
	}
	return ok
}

func errnoOf(err error) (syscall.Errno, bool) {
	var errno syscall.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}

// leniency says which errnos beyond the usual ones mean "not supported" for a call.
type leniency uint8

const (
	strict leniency = iota
	// einvalUnsupported: drivers answer EINVAL for what they do not have, as in
	// ETHTOOL_GRXFH for a flow type (e.g. ixgbe_get_rss_hash_opts,
	// drivers/net/ethernet/intel/ixgbe/ixgbe_ethtool.c).
	einvalUnsupported
	// enoentUnsupported: CTRL_CMD_GETFAMILY answers ENOENT for a generic netlink
	// family that the kernel lacks (net/netlink/genetlink.c, ctrl_getfamily).
	enoentUnsupported
)

// kindOf is the one place where errnos become sentinels. Nil means that no
// sentinel fits.
func kindOf(err error, lenient leniency) error {
	errno, ok := errnoOf(err)
	switch {
	case !ok:
		return nil
	case lenient == einvalUnsupported && errno == unix.EINVAL,
		lenient == enoentUnsupported && errno == unix.ENOENT:
		return host.ErrUnsupported
	}
	switch errno {
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS:
		return host.ErrUnsupported
	// ENODEV: no device of that name, or one that is detached
	// (net/ethtool/ioctl.c, __dev_ethtool); ENXIO, ENOENT: no object of that number.
	case unix.ENODEV, unix.ENXIO, unix.ENOENT:
		return fs.ErrNotExist
	// EROFS: a container that may look but not touch.
	case unix.EPERM, unix.EACCES, unix.EROFS:
		return fs.ErrPermission
	}
	return nil
}

// readError classifies a failed reading. What fits no sentinel, such as EIO or
// EBUSY from a driver, tells nothing about the machine: inconclusive.
func readError(op string, err error, lenient leniency) error {
	if err == nil || isClassified(err) {
		return err
	}
	kind := kindOf(err, lenient)
	if kind == nil {
		kind = host.ErrInconclusive
	}
	return &callError{op: op, kind: kind, cause: err}
}

// writeError classifies a failed write. What fits no sentinel keeps its errno
// alone: it is the driver's answer to this value.
func writeError(op string, err error) error {
	if err == nil || isClassified(err) {
		return err
	}
	return &callError{op: op, kind: kindOf(err, strict), cause: err}
}

// isClassified keeps an error from being wrapped twice on its way up.
func isClassified(err error) bool {
	var done *callError
	return errors.As(err, &done)
}

// failure is a classified error that did not come from an errno.
func failure(op string, kind error, format string, args ...any) error {
	return &callError{op: op, kind: kind, cause: fmt.Errorf(format, args...)}
}
