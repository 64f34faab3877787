package apply

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/rules/plan"
)

// Devices without hardware that come and go leave one journal of a service behind
// and not one each. Those of a person, of devices on a bus and of the host stay.
func TestBury(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		service   bool
		bus, also string
		want      int
	}{
		{"service", true, "", "", 1},
		{"person", false, "", "", 10},
		{"hardware", true, "0000:01:00.0", "", 10},
		{"with a setting of the host", true, "", "net.core.netdev_budget", 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
			index := 10
			r.origin = func(o plan.Origin) plan.Origin {
				for i := range o.Devices {
					o.Devices[i].Index, o.Devices[i].Bus = index+i, test.bus
					if test.bus != "" {
						o.Devices[i].Bus += fmt.Sprint(index) // in another slot each time
					}
				}
				return o
			}
			a := r.process(nil)
			a.Unattended = test.service
			for range 10 {
				r.write(restored[1], "")
				pairs := []string{restored[1], "1-3"}
				if test.also != "" {
					pairs = append(pairs, test.also, fmt.Sprint(600+index))
				}
				if _, err := a.Apply(background, r.plan(pairs...), anything); err != nil {
					t.Fatal(err)
				}
				index += 10
			}
			all, err := a.Status()
			if err != nil || len(all) != test.want {
				t.Errorf("%d journals, want %d, %v", len(all), test.want, err)
			}
			if len(all) > 1 && all[0].Drift[0].Gone != (test.also == "") {
				t.Errorf("not told to be gone: %+v", all[0].Drift[0])
			}
		})
	}
}

// The history has two files of a bounded size, and both are read.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4})
	a := r.process(nil)
	const name = "var/lib/napitune/history.jsonl"
	line := []byte(`{"id":"old","event":"applied"}` + "\n")
	for range 3 {
		r.disk.files[name] = append(r.disk.files[name], bytes.Repeat(line, longestHistory/len(line)+1)...)
		if err := a.keep(Event{ID: "new"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.disk.files[name]) > 200 || len(r.disk.files) != 2 {
		t.Errorf("%d files, the last of %d bytes", len(r.disk.files), len(r.disk.files[name]))
	}
	events, damaged, err := a.Events()
	if err != nil || damaged > 0 || events[0].ID == "new" && len(events) < 100 || events[len(events)-1].ID != "new" {
		t.Errorf("%d events, %d damaged, %v", len(events), damaged, err)
	}
}
