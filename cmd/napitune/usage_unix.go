//go:build unix

package main

import (
	"runtime"
	"syscall"
	"time"

	"github.com/napitune/napitune/cmd/napitune/report"
)

// resourceUsage is the processor time and memory of this process so far.
func resourceUsage() report.Overhead {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return report.Overhead{}
	}
	// ru_maxrss is in kilobytes on Linux and the BSDs, in bytes on macOS (getrusage(2)).
	unit := int64(1024)
	if runtime.GOOS == "darwin" {
		unit = 1
	}
	return report.Overhead{
		CPUSeconds:  time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(),
		MaxRSSBytes: int64(u.Maxrss) * unit,
	}
}
