package deadline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// pid1 is a systemd that only writes down what it is asked.
type pid1 struct {
	asked   []string
	refusal error
	result  string // of the job; "" for one that never ends
	closed  int
}

func (p *pid1) StartTransientUnitAux(_ context.Context, name, mode string, properties []dbus.Property, aux []dbus.PropertyCollection, ch chan<- string) (int, error) {
	p.asked = append(p.asked, "start "+name+" "+mode)
	for _, one := range properties {
		p.asked = append(p.asked, fmt.Sprintf("timer %s=%v (%s)", one.Name, one.Value.Value(), one.Value.Signature()))
	}
	for _, unit := range aux {
		for _, one := range unit.Properties {
			p.asked = append(p.asked, fmt.Sprintf("%s %s=%v (%s)", unit.Name, one.Name, one.Value.Value(), one.Value.Signature()))
		}
	}
	if p.refusal == nil && p.result != "" {
		ch <- p.result
	}
	return 1, p.refusal
}

func (p *pid1) StopUnitContext(_ context.Context, name, mode string, _ chan<- string) (int, error) {
	p.asked = append(p.asked, "stop "+name+" "+mode)
	return 1, p.refusal
}

func (p *pid1) Close() { p.closed++ }

func (p *pid1) guard() Guard {
	return Guard{
		Connect: func(context.Context) (Manager, error) { return p, nil },
		Command: []string{"/usr/bin/napitune", "rollback", "--unconfirmed"},
	}
}

const id = "20260101-120000-001"

// What is asked has the types of org.freedesktop.systemd1(5): a wrong one is
// refused by the whole call.
func TestArm(t *testing.T) {
	t.Parallel()
	p := &pid1{result: "done"}
	if err := p.guard().Arm(id, 90*time.Second); err != nil {
		t.Fatal(err)
	}
	about := "roll back napitune transaction " + id + " unless it is confirmed"
	service := "napitune-rollback-" + id + ".service "
	want := []string{
		"start napitune-rollback-" + id + ".timer fail",
		"timer Description=" + about + " (s)",
		"timer TimersMonotonic=[{OnActiveSec 90000000}] (a(st))",
		"timer AccuracyUSec=100000 (t)",
		"timer RemainAfterElapse=false (b)",
		"timer CollectMode=inactive-or-failed (s)",
		service + "Description=" + about + " (s)",
		service + "Type=oneshot (s)",
		service + "ExecStart=[{/usr/bin/napitune [/usr/bin/napitune rollback --unconfirmed " + id + "] false}] (a(sasb))",
		service + "TimeoutStartUSec=87300000000 (t)",
		service + "CollectMode=inactive-or-failed (s)",
	}
	if diff := cmp.Diff(want, p.asked); diff != "" {
		t.Errorf("-want +asked:\n%s", diff)
	}
	if p.closed != 1 {
		t.Errorf("closed %d times", p.closed)
	}
}

// A timer that does not run is told, so that nobody relies on it.
func TestArmFails(t *testing.T) {
	t.Parallel()
	refused := errors.New("access denied")
	for name, test := range map[string]struct {
		p    *pid1
		want string
	}{
		"refused":    {&pid1{refusal: refused}, "access denied"},
		"job failed": {&pid1{result: "failed"}, `systemd says "failed"`},
	} {
		if err := test.p.guard().Arm(id, time.Minute); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if test.p.closed != 1 {
			t.Errorf("%s: closed %d times", name, test.p.closed)
		}
	}
	g := Guard{Connect: func(context.Context) (Manager, error) { return nil, refused }}
	for name, act := range map[string]func() error{
		"arm": func() error { return g.Arm(id, time.Minute) }, "disarm": func() error { return g.Disarm(id) },
	} {
		if err := act(); !errors.Is(err, refused) {
			t.Errorf("%s without a bus: %v", name, err)
		}
	}
}

func TestDisarm(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refusal error
		fails   bool
	}{
		"running": {nil, false},
		"gone":    {godbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit"}, false},
		"denied":  {godbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"}, true},
	} {
		p := &pid1{refusal: test.refusal}
		if err := p.guard().Disarm(id); (err != nil) != test.fails {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{"stop napitune-rollback-" + id + ".timer replace"}, p.asked); diff != "" {
			t.Errorf("%s: -want +asked:\n%s", name, diff)
		}
	}
}

func TestObstacle(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		links map[string]string
		want  string // "" for none
	}{
		"same":           {map[string]string{"self/ns/net": "net:[1]", "1/ns/net": "net:[1]", "self/ns/mnt": "mnt:[2]", "1/ns/mnt": "mnt:[2]"}, ""},
		"other network":  {map[string]string{"self/ns/net": "net:[7]", "1/ns/net": "net:[1]", "self/ns/mnt": "mnt:[2]", "1/ns/mnt": "mnt:[2]"}, "another network namespace"},
		"other mounts":   {map[string]string{"self/ns/net": "net:[1]", "1/ns/net": "net:[1]", "self/ns/mnt": "mnt:[7]", "1/ns/mnt": "mnt:[2]"}, "another mount namespace"},
		"theirs unknown": {map[string]string{"self/ns/net": "net:[1]"}, "net namespace of systemd unknown"},
		"ours unknown":   {map[string]string{"1/ns/net": "net:[1]"}, "own net namespace unknown"},
		"no systemd":     {nil, "systemd does not run this machine"},
	} {
		files := tree.New()
		if test.links != nil {
			if err := files.Mkdir("run/systemd/system"); err != nil {
				t.Fatal(err)
			}
		}
		for at, to := range test.links {
			if err := files.Symlink("proc/"+at, to); err != nil {
				t.Fatal(err)
			}
		}
		got := Obstacle(&host.Host{FS: files})
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
