package apply

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// renamed shows the device from under another name, or with "" not at all.
type renamed struct{ from, show string }

// real is the name in the machine of a name that is seen.
func (n renamed) real(dev string) (string, error) {
	switch dev {
	case n.from:
		return "", fmt.Errorf("%s: %w", dev, fs.ErrNotExist)
	case n.show:
		return n.from, nil
	}
	return dev, nil
}

func (n renamed) file(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, "sys/class/net/")
	if !ok {
		return name, nil
	}
	dev, rest, _ := strings.Cut(rest, "/")
	dev, err := n.real(dev)
	return strings.TrimSuffix("sys/class/net/"+dev+"/"+rest, "/"), err
}

type renamedFS struct {
	renamed
	fs.FS
}

func (f renamedFS) ReadFile(name string) ([]byte, error) {
	name, err := f.file(name)
	if err != nil {
		return nil, err
	}
	return fs.ReadFile(f.FS, name)
}

func (f renamedFS) Stat(name string) (fs.FileInfo, error) {
	name, err := f.file(name)
	if err != nil {
		return nil, err
	}
	return fs.Stat(f.FS, name)
}

func translated[T any](n renamed, read func(string) (T, error)) func(string) (T, error) {
	return func(dev string) (T, error) {
		dev, err := n.real(dev)
		if err != nil {
			var zero T
			return zero, err
		}
		return read(dev)
	}
}

func (n renamed) view(v knob.View) knob.View {
	h := *v.Host
	h.FS = renamedFS{n, v.Host.FS}
	h.Ethtool.DriverInfo = translated(n, h.Ethtool.DriverInfo)
	h.Ethtool.Channels = translated(n, h.Ethtool.Channels)
	h.Ethtool.Rings = translated(n, h.Ethtool.Rings)
	h.Ethtool.Coalesce = translated(n, h.Ethtool.Coalesce)
	h.Ethtool.Features = translated(n, h.Ethtool.Features)
	h.Ethtool.RSS = translated(n, h.Ethtool.RSS)
	fields := h.Ethtool.HashFields
	h.Ethtool.HashFields = func(dev, flow string) (string, error) {
		dev, err := n.real(dev)
		if err != nil {
			return "", err
		}
		return fields(dev, flow)
	}
	v.Host = &h
	irq := v.IRQ
	v.IRQ = func(dev string, tx bool, queue int) (int, error) {
		dev, err := n.real(dev)
		if err != nil {
			return 0, err
		}
		return irq(dev, tx, queue)
	}
	var devices []knob.Dev
	for _, d := range v.Devices {
		if d.Name == n.from {
			if n.show == "" {
				continue
			}
			d.Name = n.show
		}
		devices = append(devices, d)
	}
	v.Devices = devices
	return v
}

func (n renamed) origin(o plan.Origin) plan.Origin {
	var devices []plan.OriginDevice
	for _, d := range o.Devices {
		if d.Name == n.from {
			if n.show == "" {
				continue
			}
			d.Name = n.show
		}
		devices = append(devices, d)
	}
	o.Devices = devices
	return o
}

// writer takes writes under the name that is seen.
func (n renamed) writer(w host.Writer) host.Writer {
	out := w
	dev := func(name string) (string, error) {
		name, err := n.real(name)
		if err != nil {
			err = syscall.ENODEV
		}
		return name, err
	}
	out.WriteFile = func(name string, data []byte) error {
		name, err := n.file(name)
		if err != nil {
			return syscall.ENOENT
		}
		return w.WriteFile(name, data)
	}
	out.SetChannels = func(d string, c host.Channels) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetChannels(d, c)
	}
	out.SetRings = func(d string, r host.Rings) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetRings(d, r)
	}
	out.SetCoalesce = func(d string, c host.Coalesce) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetCoalesce(d, c)
	}
	out.SetFeatures = func(d string, on map[string]bool) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetFeatures(d, on)
	}
	out.SetRSS = func(d string, table []uint32) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetRSS(d, table)
	}
	out.SetHashFields = func(d, flow, fields string) error {
		d, err := dev(d)
		if err != nil {
			return err
		}
		return w.SetHashFields(d, flow, fields)
	}
	return out
}
