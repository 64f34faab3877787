package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOriginDifferences(t *testing.T) {
	t.Parallel()
	base := func() Origin {
		return Origin{BootID: "a", Release: "6.12.0", Devices: []OriginDevice{
			{Name: "eth0", Driver: "ice", Bus: "0000:04:00.0", Index: 2, Queues: 4},
			{Name: "eth1", Driver: "ice", Bus: "0000:04:00.1", Index: 3, Queues: 4},
		}}
	}
	for _, tt := range []struct {
		name   string
		change func(*Origin)
		want   []string
	}{
		{"the same", func(*Origin) {}, nil},
		{"another boot and kernel", func(o *Origin) { o.BootID, o.Release = "b", "6.13.0" }, []string{
			`the boot is "b", the plan was made with "a"`, `the kernel is "6.13.0", the plan was made with "6.12.0"`}},
		{"another driver", func(o *Origin) { o.Devices[0].Driver = "vfio" }, []string{`the driver of eth0 is "vfio", the plan was made with "ice"`}},
		{"another slot", func(o *Origin) { o.Devices[1].Bus = "" }, []string{`the bus address of eth1 is "", the plan was made with "0000:04:00.1"`}},
		{"other queues", func(o *Origin) { o.Devices[0].Queues = 8 }, []string{"eth0 has 8 queues, the plan was made with 4"}},
		{"a device gone and one come", func(o *Origin) { o.Devices[1].Name = "eth2" }, []string{
			"device eth1 of the plan is not there", "device eth2 was not there when the plan was made"}},
	} {
		now := base()
		tt.change(&now)
		if diff := cmp.Diff(tt.want, base().Differences(now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if same := base().Fingerprint() == now.Fingerprint(); same != (tt.want == nil) {
			t.Errorf("%s: equal fingerprints is %v", tt.name, same)
		}
	}
	renumbered := base()
	renumbered.Devices[0].Index = 9
	if base().Fingerprint() != renumbered.Fingerprint() {
		t.Error("the interface index is part of the fingerprint")
	}
}
