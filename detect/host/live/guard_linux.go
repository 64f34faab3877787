package live

import (
	"fmt"
	"math"
	"runtime"

	"github.com/safchain/ethtool"

	"github.com/napitune/napitune/detect/host"
)

// This file is the only place where github.com/safchain/ethtool may be called.
//
// The library hands the kernel the address of a local variable as a plain
// uintptr through an ordinary method call. If the goroutine's stack moves
// between the two, the kernel fills memory that was given back and the caller
// sees zeros without an error. Stacks move when they grow and when the
// collector shrinks them. onGrownStack rules both out: on a fresh goroutine it
// holds a frame so large that the stack has room for the whole call and is
// never less than a quarter full, the runtime's condition for shrinking
// (runtime/stack.go, shrinkstack). Answers that are all zero are still asked
// for again and then refused.
//
// GetIndir and SetIndir must not be called at all: they lend the kernel a
// table of 256 entries whatever the device's size is, and drivers have tables
// of 512 and more. Features, Change and Stats are not used either: they lose the order of
// counters, and whether a wish was granted.

// guardFrameBytes makes the stack at least 64 KiB, of which more than 32 are
// in use and about 30 are left for the call, which needs less than one.
const guardFrameBytes = 33 << 10

// library is safchain/ethtool with the guard around it.
type library struct{ handle *ethtool.Ethtool }

func openLibrary() (*library, error) {
	handle, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	return &library{handle: handle}, nil
}

func (l *library) close() { l.handle.Close() }

func (l *library) call(f func(*ethtool.Ethtool) error) error {
	done := make(chan error, 1)
	go func() { done <- onGrownStack(l.handle, f) }()
	return <-done
}

//go:noinline
func onGrownStack(handle *ethtool.Ethtool, f func(*ethtool.Ethtool) error) error {
	var frame [guardFrameBytes]byte
	occupy(&frame)
	err := f(handle)
	occupy(&frame)
	return err
}

// occupy keeps the frame from being optimised away without moving it to the heap.
//
//go:noinline
func occupy(frame *[guardFrameBytes]byte) { frame[0]++ }

// asked calls get until it gives something other than the zero value of T with
// the command number set, at most twice.
func asked[T comparable](l *library, op string, get func(*ethtool.Ethtool) (T, error), isZero func(T) bool) (T, error) {
	var zero T
	for range 2 {
		var answer T
		err := l.call(func(e *ethtool.Ethtool) (err error) {
			answer, err = get(e)
			return err
		})
		runtime.KeepAlive(l)
		if err != nil {
			return zero, readError(op, err, strict)
		}
		if !isZero(answer) {
			return answer, nil
		}
	}
	return zero, failure(op, host.ErrInconclusive, "every field is zero")
}

func (l *library) driverInfo(dev string) (host.DriverInfo, error) {
	op := "read driver of " + dev
	info, err := asked(l, op,
		func(e *ethtool.Ethtool) (ethtool.DrvInfo, error) { return e.DriverInfo(dev) },
		func(i ethtool.DrvInfo) bool { return i.Driver == "" })
	if err != nil {
		return host.DriverInfo{}, err
	}
	return host.DriverInfo{
		Driver: info.Driver, Version: info.Version, Firmware: info.FwVersion, Bus: info.BusInfo,
	}, nil
}

func (l *library) rawChannels(dev string) (ethtool.Channels, error) {
	return asked(l, "read channels of "+dev,
		func(e *ethtool.Ethtool) (ethtool.Channels, error) { return e.GetChannels(dev) },
		func(c ethtool.Channels) bool { return c == ethtool.Channels{Cmd: c.Cmd} })
}

func (l *library) channels(dev string) (host.Channels, error) {
	c, err := l.rawChannels(dev)
	if err != nil {
		return host.Channels{}, err
	}
	return host.Channels{
		MaxRx: int(c.MaxRx), MaxTx: int(c.MaxTx), MaxOther: int(c.MaxOther), MaxCombined: int(c.MaxCombined),
		Rx: int(c.RxCount), Tx: int(c.TxCount), Other: int(c.OtherCount), Combined: int(c.CombinedCount),
	}, nil
}

// setChannels asks for the counts of want. Nothing is written if they are
// already so. Other channels keep their count unless want names one.
func (l *library) setChannels(dev string, want host.Channels) error {
	op := fmt.Sprintf("set channels of %s to rx %d tx %d combined %d", dev, want.Rx, want.Tx, want.Combined)
	if err := within(op, math.MaxInt32, want.Rx, want.Tx, want.Other, want.Combined); err != nil {
		return err
	}
	now, err := l.rawChannels(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	next := now
	next.RxCount, next.TxCount, next.CombinedCount = uint32(want.Rx), uint32(want.Tx), uint32(want.Combined)
	if want.Other > 0 {
		next.OtherCount = uint32(want.Other)
	}
	if next == now {
		return nil
	}
	return writeError(op, l.call(func(e *ethtool.Ethtool) error {
		_, err := e.SetChannels(dev, next)
		return err
	}))
}

func (l *library) rawRings(dev string) (ethtool.Ring, error) {
	return asked(l, "read rings of "+dev,
		func(e *ethtool.Ethtool) (ethtool.Ring, error) { return e.GetRing(dev) },
		func(r ethtool.Ring) bool { return r == ethtool.Ring{Cmd: r.Cmd} })
}

func (l *library) rings(dev string) (host.Rings, error) {
	r, err := l.rawRings(dev)
	if err != nil {
		return host.Rings{}, err
	}
	return host.Rings{
		MaxRx: int(r.RxMaxPending), MaxTx: int(r.TxMaxPending), Rx: int(r.RxPending), Tx: int(r.TxPending),
	}, nil
}

// setRings asks for the sizes of want; a size of 0 is left as it is, and so
// are mini and jumbo rings. Nothing is written if the sizes are already so.
func (l *library) setRings(dev string, want host.Rings) error {
	op := fmt.Sprintf("set rings of %s to rx %d tx %d", dev, want.Rx, want.Tx)
	if err := within(op, math.MaxInt32, want.Rx, want.Tx); err != nil {
		return err
	}
	now, err := l.rawRings(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	next := now
	if want.Rx > 0 {
		next.RxPending = uint32(want.Rx)
	}
	if want.Tx > 0 {
		next.TxPending = uint32(want.Tx)
	}
	if next == now {
		return nil
	}
	return writeError(op, l.call(func(e *ethtool.Ethtool) error {
		_, err := e.SetRing(dev, next)
		return err
	}))
}

// rawCoalesce has no zero check: a device may well moderate nothing.
func (l *library) rawCoalesce(dev string) (ethtool.Coalesce, error) {
	return asked(l, "read coalescing of "+dev,
		func(e *ethtool.Ethtool) (ethtool.Coalesce, error) { return e.GetCoalesce(dev) },
		func(ethtool.Coalesce) bool { return false })
}

func (l *library) setRawCoalesce(dev, op string, c ethtool.Coalesce) error {
	return writeError(op, l.call(func(e *ethtool.Ethtool) error {
		_, err := e.SetCoalesce(dev, c)
		return err
	}))
}

// within refuses numbers that do not fit the kernel's field before they wrap.
func within(op string, limit int64, numbers ...int) error {
	for _, n := range numbers {
		if n < 0 || int64(n) > limit {
			return failure(op, nil, "%d is not between 0 and %d", n, limit)
		}
	}
	return nil
}
