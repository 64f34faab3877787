package hosttest

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/host"
)

// Writer changes the machine. Every write obeys the laws of this package; one
// that none of them covers is an error.
func (m *Memory) Writer() host.Writer {
	return host.Writer{
		WriteFile: func(name string, data []byte) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if err := m.writeFile(name, string(data)); err != nil {
				return &fs.PathError{Op: "write", Path: "/" + name, Err: err}
			}
			return nil
		},
		SetChannels:   locked(m, m.setChannels),
		SetRings:      locked(m, m.setRings),
		SetCoalesce:   locked(m, m.setCoalesce),
		SetFeatures:   locked(m, m.setFeatures),
		SetRSS:        locked(m, m.setRSS),
		SetHashFields: m.setHashFields,
		SetNAPI:       m.setNAPI,
		BanIRQs:       m.banIRQs,
	}
}

func locked[T any](m *Memory, set func(dev string, v T) error) func(string, T) error {
	return func(dev string, v T) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := set(dev, v); err != nil {
			return fmt.Errorf("set %s to %+v: %w", dev, v, err)
		}
		return nil
	}
}

// writeFile finds the law for a file.
func (m *Memory) writeFile(name, text string) error {
	text = strings.TrimSuffix(text, "\n")
	parts := strings.Split(name, "/")
	switch {
	case !fs.ValidPath(name):
		return fs.ErrInvalid
	case len(parts) == 4 && parts[0] == "proc" && parts[1] == "irq":
		return m.writeAffinity(parts[2], parts[3], text)
	case len(parts) == 5 && strings.HasPrefix(name, "proc/sys/net/core/"):
		return m.writeSysctl(name, parts[4], text)
	case len(parts) == 5 && strings.HasPrefix(name, "sys/class/net/"):
		return m.writeAttribute(name, parts[3], parts[4], text)
	case len(parts) == 7 && strings.HasPrefix(name, "sys/class/net/") && parts[4] == "queues":
		return m.writeQueue(name, parts[6], text)
	}
	return fmt.Errorf("no law for this file: %w", fs.ErrInvalid)
}

// store puts the new text of a setting into every sample that has it. It must be
// there and readable in the last one.
func (m *Memory) store(name, text string) error {
	if _, err := m.last().tree.ReadFile(name); err != nil {
		return bare(err)
	}
	for _, s := range m.samples {
		if _, err := s.tree.ReadFile(name); err != nil {
			continue
		}
		if err := s.tree.WriteFile(name, []byte(text+"\n")); err != nil {
			return bare(err)
		}
	}
	return nil
}

// bare takes the path off an error that will get one again.
func bare(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// decimal reads a number as the kernel's kstrto functions do: ERANGE outside
// the type, EINVAL for anything else (lib/kstrtox.c).
func decimal(text string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 0, 64)
	switch {
	case err != nil:
		return 0, syscall.EINVAL
	case n < least:
		return 0, syscall.EINVAL
	case n > most:
		return 0, syscall.ERANGE
	}
	return n, nil
}
