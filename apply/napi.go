package apply

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// napiName is what people are told of a NAPI; its number changes with the queues.
func napiName(dev string, n napiValues) string {
	if n.Queue < 0 {
		return fmt.Sprintf("NAPI %d of %s", n.ID, dev)
	}
	return fmt.Sprintf("NAPI of %s/rx-%d", dev, n.Queue)
}

// String is all values of a NAPI in words.
func (n napiValues) String() string {
	return fmt.Sprintf("napi_defer_hard_irqs %d, gro_flush_timeout %d, irq_suspend_timeout %d, threaded %d", n.Defer, n.Flush, n.Suspend, n.Threaded)
}

// same reports whether two NAPIs have the same values.
func (n napiValues) same(other napiValues) bool { return n.String() == other.String() }

// restoreNAPIs gives NAPIs their own values back, after the device's value is
// restored. What cannot be given back is told like any other setting.
func (u *undoing) restoreNAPIs(e *entry) {
	at, err := u.where.ref(e.ref)
	if err != nil || u.deviceGone(e.ref) != nil || len(e.napis) == 0 {
		return
	}
	now, err := deviceNAPIs(u.view, at.Dev)
	for _, was := range e.napis {
		r := Restoration{NAPI: napiName(e.ref.Dev, was), Want: was.String()}
		if err != nil {
			r.Fate, r.Reason = FateFailed, err.Error()
		} else if is, fate, reason := u.findNAPI(e, now, was); fate != "" {
			r.Fate, r.Reason = fate, reason
		} else {
			u.restoreNAPI(e, at.Dev, was, is, &r)
		}
		u.tell(e.ref, r)
	}
}

// findNAPI finds a NAPI that a change has recorded. One of a queue that the
// transaction had made before went with it.
func (u *undoing) findNAPI(e *entry, now []napiValues, was napiValues) (is napiValues, fate Fate, reason string) {
	is, fate, reason = findNAPI(now, was)
	made := slices.ContainsFunc(u.t.entries, func(x *entry) bool {
		return x.seq < e.seq && x.ref.Dev == e.ref.Dev && stageOf(x.ref) == knob.StageChannels
	})
	if fate == FateGone && made {
		return is, FateAlready, madeByUs
	}
	return is, fate, reason
}

// findNAPI finds a NAPI of the journal: by its queue, and by its number where
// queues do not tell. If it is not found, the fate of its values says so.
func findNAPI(now []napiValues, was napiValues) (is napiValues, fate Fate, reason string) {
	queues := false
	for _, n := range now {
		queues = queues || n.Queue >= 0
		if n.Queue >= 0 && n.Queue == was.Queue {
			return n, "", ""
		}
	}
	// Numbers count up: another NAPI has another (net/core/dev.c, napi_hash_add).
	at := slices.IndexFunc(now, func(n napiValues) bool { return n.ID == was.ID && (n.Queue < 0 || was.Queue < 0) })
	switch {
	case at >= 0:
		return now[at], "", ""
	case len(now) == 0:
		return is, FateGone, "the device shows no NAPIs, as one that is down"
	case was.Queue < 0:
		return is, FateGone, "NAPIs have other numbers by now, and which queue it served was not known"
	case !queues:
		return is, FateFailed, "NAPIs have other numbers by now, and the host does not tell which queues they serve"
	default:
		return is, FateGone, "its queue is gone"
	}
}

// restoreNAPI sets the values of one NAPI. A value that is neither what was
// recorded nor the device's is somebody else's and stays.
func (u *undoing) restoreNAPI(e *entry, dev string, was, is napiValues, r *Restoration) {
	want, foreign := is, false
	one := func(value *uint64, own, wideThen, wideNow uint64, kind string) {
		switch {
		case *value == own:
		case *value == wideThen, *value == wideNow, writes(e, kind, *value):
			*value = own
		case own != wideThen:
			foreign = true
		}
	}
	one(&want.Defer, was.Defer, was.WideDefer, is.WideDefer, "napi_defer_hard_irqs")
	one(&want.Flush, was.Flush, was.WideFlush, is.WideFlush, "gro_flush_timeout")
	one(&want.Suspend, was.Suspend, 0, 0, "")
	threaded := uint64(is.Threaded)
	one(&threaded, uint64(was.Threaded), uint64(was.WideThread), uint64(is.WideThread), "threaded")
	want.Threaded = int(threaded)
	r.Present, r.Fate = is.String(), FateAlready
	if !want.same(is) {
		r.Present, r.Fate = want.String(), FateRestored
		if err := u.setNAPI(dev, want); err != nil {
			r.Present, r.Fate, r.Reason = is.String(), FateFailed, err.Error()
		}
	}
	if foreign && r.Fate != FateFailed {
		r.Fate = FateForeign
	}
	u.napis[r.NAPI] = restoredNAPI{by: e, was: was, want: want}
}

// writes reports whether a change of a device-wide setting writes this value.
func writes(e *entry, kind string, value uint64) bool {
	if e.ref.Kind != kind {
		return false
	}
	n, err := strconv.ParseUint(strings.NewReplacer("on", "1", "off", "0").Replace(e.after), 10, 64)
	return err == nil && n == value
}

func (u *undoing) setNAPI(dev string, want napiValues) error {
	if u.a.Writer.SetNAPI == nil {
		return host.ErrUnsupported
	}
	index, err := ifIndex(u.view.Host, dev)
	if err != nil {
		return err
	}
	return u.a.Writer.SetNAPI(host.NAPI{
		IfIndex: index, ID: want.ID, DeferHardIRQs: want.Defer, GROFlushTimeout: want.Flush, IRQSuspend: want.Suspend, Threaded: want.Threaded, IRQ: -1,
	})
}

// restoredNAPI is what a NAPI should have at the end of the rollback.
type restoredNAPI struct {
	by        *entry // the first change that recorded it
	was, want napiValues
}

// verifyNAPIs reads back the values of single NAPIs.
func (u *undoing) verifyNAPIs() {
	for name, n := range u.napis {
		at, err := u.where.ref(n.by.ref)
		if err != nil || u.deviceGone(n.by.ref) != nil {
			continue
		}
		r := &u.result.Restored[u.told[name]]
		if r.Fate != FateRestored && r.Fate != FateAlready && r.Fate != FateForeign {
			continue
		}
		now, err := deviceNAPIs(u.view, at.Dev)
		is, fate, reason := u.findNAPI(n.by, now, n.was)
		switch {
		case err != nil:
			r.Fate, r.Reason = FateFailed, err.Error()
		case fate != "":
			r.Fate, r.Reason = fate, reason
		case !is.same(n.want):
			r.Fate, r.Present, r.Reason = FateFailed, is.String(), "it does not have its old values"
		}
	}
}
