//go:build !linux

package live

import (
	"fmt"
	"runtime"

	"github.com/napitune/napitune/detect/host"
)

// Open reports that only a Linux kernel can be read; the error wraps
// host.ErrUnsupported.
func Open(Options) (*host.Host, error) { return nil, errNotLinux() }

// OpenWriter reports that only a Linux kernel can be changed; the error wraps
// host.ErrUnsupported.
func OpenWriter(Options) (*host.Writer, error) { return nil, errNotLinux() }

// OpenEvents reports that only a Linux kernel can be listened to; the error
// wraps host.ErrUnsupported.
func OpenEvents(Options) (*host.Events, error) { return nil, errNotLinux() }

func errNotLinux() error {
	return fmt.Errorf("open the running machine: %s is not Linux, give a captured host instead: %w", runtime.GOOS, host.ErrUnsupported)
}
