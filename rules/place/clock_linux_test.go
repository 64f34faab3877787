package place

import (
	"syscall"
	"testing"
	"time"
)

// clock is the time that this thread has run, whatever else the machine does.
// The caller has locked its goroutine to the thread.
func clock(t *testing.T) time.Duration {
	t.Helper()
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
