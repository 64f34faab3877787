package rules_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// BenchmarkAdvise is the whole run besides reading files and the window:
// parsing two samples, the map, the settings, the rules and the plan. The cost
// per CPU × queue should not grow with the host.
func BenchmarkAdvise(b *testing.B) {
	for _, size := range []struct {
		cpus, nics, queues int
		stacked            bool
	}{{8, 1, 8, false}, {32, 2, 16, false}, {128, 4, 32, false}, {512, 8, 64, false}, {1152, 4, 94, false}, {512, 64, 64, false}, {512, 64, 64, true}} {
		name := fmt.Sprintf("%dcpu_%dnic_%dirq", size.cpus, size.nics, size.nics*size.queues)
		if size.stacked {
			name += "_stacked"
		}
		b.Run(name, func(b *testing.B) {
			samples, err := hosttest.Generate(hosttest.Spec{CPUs: size.cpus, Nodes: min(8, size.cpus/4), SMT: 2, NICs: size.nics,
				QueuesPerNIC: size.queues, Driver: "i40e", IRQStacked: size.stacked})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				advise(b, samples)
			}
			cells := float64(size.cpus) * float64(size.nics*size.queues)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/cells, "ns/cell")
		})
	}
}

// BenchmarkCaptured1152 opens and judges the largest captured host.
func BenchmarkCaptured1152(b *testing.B) {
	path := filepath.Join(hostsDir(b), "pcp", "hpe_1152cpu_i40e.tar.gz")
	b.ReportAllocs()
	for b.Loop() {
		capture, err := archive.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		advise(b, capture.Samples)
	}
}

func advise(b *testing.B, samples []*host.Host) plan.Plan {
	b.Helper()
	var snaps []*detect.Snapshot
	for _, h := range samples {
		s, err := detect.Collect(h)
		if err != nil {
			b.Fatal(err)
		}
		snaps = append(snaps, s)
	}
	o := detect.Between(snaps...)
	return plan.Build(rules.Evaluate(o, profiles.Balanced()), plan.Input{States: o.Last.Knobs, View: o.Last.View()})
}
