package detect

import (
	"errors"
	"io/fs"
	"sync"

	"github.com/napitune/napitune/detect/host"
)

// answer is one kept answer of a host, error included.
type answer[T any] struct {
	value T
	err   error
}

// remember turns a question into one that is asked once per argument. A nil
// question was never captured. Asking a device costs a system call and, with
// some drivers, a firmware command; several collectors and the table of
// settings ask the same things.
func remember[K comparable, T any](ask func(K) (T, error)) func(K) (T, error) {
	if ask == nil {
		return func(K) (T, error) {
			var zero T
			return zero, host.ErrNotCaptured
		}
	}
	var mu sync.Mutex
	kept := map[K]answer[T]{}
	return func(key K) (T, error) {
		mu.Lock()
		defer mu.Unlock()
		a, ok := kept[key]
		if !ok {
			a.value, a.err = ask(key)
			kept[key] = a
		}
		return a.value, a.err
	}
}

func rememberOne[T any](ask func() (T, error)) func() (T, error) {
	if ask == nil {
		return func() (T, error) {
			var zero T
			return zero, host.ErrNotCaptured
		}
	}
	f := remember(func(struct{}) (T, error) { return ask() })
	return func() (T, error) { return f(struct{}{}) }
}

// memoised is h with every question but files asked at most once.
func memoised(h *host.Host) *host.Host {
	type hashKey struct{ dev, flow string }
	m := *h
	m.Ident = rememberOne(h.Ident)
	m.Links = rememberOne(h.Links)
	m.Processes = rememberOne(h.Processes)
	m.Ethtool.DriverInfo = remember(h.Ethtool.DriverInfo)
	m.Ethtool.Channels = remember(h.Ethtool.Channels)
	m.Ethtool.Rings = remember(h.Ethtool.Rings)
	m.Ethtool.Coalesce = remember(h.Ethtool.Coalesce)
	m.Ethtool.Features = remember(h.Ethtool.Features)
	m.Ethtool.RSS = remember(h.Ethtool.RSS)
	m.Ethtool.Stats = remember(h.Ethtool.Stats)
	m.Netdev.NAPIs = rememberOne(h.Netdev.NAPIs)
	m.Netdev.Queues = rememberOne(h.Netdev.Queues)
	m.Netdev.QStats = rememberOne(h.Netdev.QStats)
	if ask := h.Ethtool.HashFields; ask != nil {
		f := remember(func(k hashKey) (string, error) { return ask(k.dev, k.flow) })
		m.Ethtool.HashFields = func(dev, flow string) (string, error) { return f(hashKey{dev, flow}) }
	} else {
		m.Ethtool.HashFields = func(string, string) (string, error) { return "", host.ErrNotCaptured }
	}
	return &m
}

// reason is what a person is told about a source that could not be read.
func reason(err error) string {
	switch {
	case errors.Is(err, host.ErrNotCaptured):
		return "not captured"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied (run as root)"
	case errors.Is(err, fs.ErrNotExist):
		return "not there"
	default:
		return err.Error()
	}
}
