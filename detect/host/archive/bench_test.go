package archive_test

import (
	"path/filepath"
	"testing"

	"github.com/napitune/napitune/detect/host/archive"
)

// BenchmarkOpenLargest opens the host of 1,152 CPUs, whose interrupts have 13 MB.
func BenchmarkOpenLargest(b *testing.B) {
	file := filepath.Join(hostsFolder(b), "pcp", "hpe_1152cpu_i40e.tar.gz")
	b.ReportAllocs()
	for b.Loop() {
		c, err := archive.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		if data, err := c.Samples[0].ReadFile("proc/interrupts"); err != nil || len(data) != 13423951 {
			b.Fatalf("%d bytes, %v", len(data), err)
		}
	}
}
