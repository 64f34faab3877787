package live

import (
	"runtime"
	"runtime/debug"
	"testing"
	"unsafe"

	"github.com/safchain/ethtool"
)

func coalesceIoctlZero() ethtool.Coalesce { return ethtool.Coalesce{} }

// deep uses about 8 KiB of stack, more than a library call, with collections
// that would shrink the stack if they could.
//
//go:noinline
func deep(levels int) byte {
	var frame [1 << 10]byte
	frame[levels] = byte(levels)
	if levels == 0 {
		runtime.GC()
		return frame[0]
	}
	return deep(levels-1) + frame[levels]
}

// moved reports whether the address of a local variable, kept as a number as
// the ethtool library keeps it, changed across a deep call.
//
//go:noinline
func moved() bool {
	var local [64]byte
	before := uintptr(unsafe.Pointer(&local))
	deep(8)
	return before != uintptr(unsafe.Pointer(&local))
}

// The guard keeps the stack where it is during a call. That a fresh goroutine
// without it moves proves that the test can see a move.
func TestGuardKeepsStack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	bare := make(chan bool)
	go func() { bare <- moved() }()
	if !<-bare {
		t.Error("an unguarded stack did not move: this test sees nothing")
	}
	l := &library{}
	for range 50 {
		err := l.call(func(*ethtool.Ethtool) error {
			if moved() {
				t.Error("a guarded stack moved")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
