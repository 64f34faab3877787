package hosttest

import (
	"strconv"

	"github.com/napitune/napitune/detect/host"
)

// Gate passes every write of w by a gate, which makes it with do, or fails it
// before or after. what names the write ("channels eth0"). A question is no write.
func Gate(w host.Writer, gate func(what string, do func() error) error) host.Writer {
	return host.Writer{
		WriteFile: func(name string, data []byte) error {
			return gate("write "+name, func() error { return w.WriteFile(name, data) })
		},
		SetChannels: func(dev string, c host.Channels) error {
			return gate("channels "+dev, func() error { return w.SetChannels(dev, c) })
		},
		SetRings: func(dev string, r host.Rings) error {
			return gate("rings "+dev, func() error { return w.SetRings(dev, r) })
		},
		SetCoalesce: func(dev string, c host.Coalesce) error {
			return gate("coalesce "+dev, func() error { return w.SetCoalesce(dev, c) })
		},
		SetFeatures: func(dev string, on map[string]bool) error {
			return gate("features "+dev, func() error { return w.SetFeatures(dev, on) })
		},
		SetRSS: func(dev string, table []uint32) error {
			return gate("rss "+dev, func() error { return w.SetRSS(dev, table) })
		},
		SetHashFields: func(dev, flow, fields string) error {
			return gate("hash "+dev, func() error { return w.SetHashFields(dev, flow, fields) })
		},
		BanIRQs: func(irqs []int) error {
			return gate("irqbalance", func() error { return w.BanIRQs(irqs) })
		},
		SetNAPI: func(n host.NAPI) error {
			return gate("napi "+strconv.Itoa(n.ID), func() error { return w.SetNAPI(n) })
		},
		MayWrite: w.MayWrite,
	}
}
