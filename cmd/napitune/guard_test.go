package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	guarding "github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/detect/knob"
)

// What a guard leaves behind for other verbs becomes a finding of advise.
func TestAdviseTellsOfContests(t *testing.T) {
	for _, contested := range []bool{true, false} {
		samples, err := hosttest.Generate(hosttest.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		ident, err := samples[1].Ident()
		if err != nil {
			t.Fatal(err)
		}
		state, err := json.Marshal(guarding.Report{Schema: guarding.Schema, PID: 7, Boot: ident.BootID, Profile: "edge", Left: []guarding.Left{{
			Ref: knob.Global("net.core.netdev_budget"), Want: "600", Present: "300", Reason: "written 2 times by somebody else within 5s", At: time.Unix(900, 0), Contested: contested,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			files, ok := s.FS.(*tree.Tree)
			if !ok {
				t.Fatalf("files are a %T", s.FS)
			}
			files.WriteFile(strings.TrimPrefix(guardFile, "/"), state)
		}
		_, stdout, stderr := invoke(context.Background(), t, env{Open: func(string) (*machine, error) { return &machine{samples: samples}, nil }}, "advise")
		flat := strings.Join(strings.Fields(stdout), " ")
		told := strings.Contains(flat, "contested-setting") && strings.Contains(flat, "net.core.netdev_budget is 300 and not 600 as the boot profile says: it was written 2 times")
		if told != contested {
			t.Errorf("contested %v, told %v:\n%s%s", contested, told, stdout, stderr)
		}
	}
}

// A host of containers has no drift because devices come and go.
func TestDriftOfTheGone(t *testing.T) {
	if n := drifted([]apply.Drift{{Drifted: true}, {Drifted: true, Gone: true}, {Drifted: true, By: "A-1"}, {}}); n != 1 {
		t.Errorf("%d settings drifted, want 1", n)
	}
}
