package detect

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

const contestedState = `{"schema":"napitune.guard/1","pid":7,"boot":"b1","keeps":2,"left":[
{"ref":"eth0/rx-1/irq.affinity","want":"1","present":"3","by":"irqbalance","reason":"written 2 times by somebody else within 20s","at":"2026-01-02T03:04:05Z","contested":true},
{"ref":"eth0/ring.rx","want":"1024","present":"256","reason":"the host refuses it: EINVAL","at":"2026-01-02T03:04:05Z"}]}`

// oneFile is a machine that has the state of a guard and nothing else.
type oneFile struct {
	text string
	err  error
}

func (f oneFile) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (f oneFile) ReadFile(name string) ([]byte, error) {
	if name != guardFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(f.text), f.err
}

func TestContests(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := []Contest{{Ref: knob.Rx("eth0", 1, "irq.affinity"), Want: "1", Present: "3", By: "irqbalance", Reason: "written 2 times by somebody else within 20s", At: at}}
	for _, test := range []struct {
		name, state string
		err         error
		boot        string
		want        []Contest
		gap         string
	}{
		{"of this boot; what the host refuses is no contest", contestedState, nil, "b1", one, ""},
		{"of an earlier boot", contestedState, nil, "b2", nil, ""},
		{"the guard has ended", strings.Replace(contestedState, `"pid"`, `"ended":true,"pid"`, 1), nil, "b1", nil, ""},
		{"no guard", "", fs.ErrNotExist, "b1", nil, ""},
		{"not for this user", "", fs.ErrPermission, "b1", nil, "permission denied"},
		{"of a later version", strings.Replace(contestedState, "guard/1", "guard/2", 1), nil, "b1", nil, `"napitune.guard/2"`},
		{"cut short", contestedState[:40], nil, "b1", nil, "state of the guard"},
		{"no setting", strings.Replace(contestedState, "eth0/rx-1/irq.affinity", "?", 1), nil, "b1", nil, "state of the guard"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := collector{s: &Snapshot{Ident: host.Ident{BootID: test.boot}}, h: &host.Host{FS: oneFile{test.state, test.err}}}
			c.contested()
			if diff := cmp.Diff(test.want, c.s.Contests); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			told := len(c.s.Gaps) == 1 && c.s.Gaps[0].Source == guardFile && strings.Contains(c.s.Gaps[0].Reason, test.gap)
			if told != (test.gap != "") {
				t.Errorf("gaps %v, want %q", c.s.Gaps, test.gap)
			}
		})
	}
}

func FuzzContests(f *testing.F) {
	f.Add([]byte(contestedState))
	f.Add([]byte(`{"schema":"napitune.guard/1","left":[{"ref":"net.core.netdev_budget","contested":true}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		contests, boot, err := parseContests(data)
		if err != nil && (contests != nil || boot != "") {
			t.Errorf("%v and %v, %q", err, contests, boot)
		}
		for _, c := range contests {
			if back, err := knob.ParseRef(c.Ref.String()); err != nil || back != c.Ref {
				t.Errorf("%v: %v", c.Ref, err)
			}
		}
	})
}
