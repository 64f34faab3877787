package main

import (
	"context"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/host/tree"
)

// A device that is down and has settings that it takes only when it is up is told
// of, unless a guard is there to set them.
func TestDoctorTellsOfDevicesThatAreDown(t *testing.T) {
	const profile = "boot-profile: 1\nname: edge\ndevices:\n  - match: {name: eth0}\n    settings: {rx-9/irq.affinity: 1, rx-8/irq.affinity: 1}\n"
	for _, test := range []struct {
		name, profile string
		up, guarded   bool
		want          int
	}{
		{"down", profile, false, false, 1},
		{"down, with a guard", profile, false, true, 0},
		{"up", profile, true, false, 0},
		{"no profile", "", false, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			samples, err := hosttest.Generate(hosttest.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			h := *samples[1]
			files, ok := h.FS.(*tree.Tree)
			if !ok {
				t.Fatalf("files are a %T", h.FS)
			}
			if test.profile != "" {
				files.WriteFile(strings.TrimPrefix(installedProfile, "/"), []byte(test.profile))
			}
			if test.guarded {
				files.Symlink(guardEnabled, packagedUnits+"/"+guardUnit)
				files.WriteFile(strings.TrimPrefix(packagedUnits, "/")+"/"+guardUnit, nil)
			}
			links := h.Links
			h.Links = func() ([]host.Link, error) {
				all, err := links()
				for i := range all {
					all[i].Up = test.up
				}
				return all, err
			}
			files.WriteFile("sys/class/net/eth0/flags", []byte(map[bool]string{true: "0x1003\n", false: "0x1002\n"}[test.up]))
			_, _, stderr := invoke(context.Background(), t, env{Open: func(string) (*machine, error) { return &machine{samples: []*host.Host{&h}}, nil }}, "doctor")
			if got := strings.Count(stderr, "eth0 is down and takes some settings only when it is up"); got != test.want {
				t.Errorf("told %d times, want %d:\n%s", got, test.want, stderr)
			}
		})
	}
}
