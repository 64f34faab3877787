package live

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// Numbers of the "netdev" family (include/uapi/linux/netdev.h, Linux 6.18).
const (
	netdevQueueGet  = 10
	netdevNAPIGet   = 11
	netdevQStatsGet = 12
	netdevNAPISet   = 14

	napiIfIndex         = 1
	napiID              = 2
	napiIRQ             = 3
	napiPID             = 4
	napiDeferHardIRQs   = 5
	napiGROFlushTimeout = 6
	napiIRQSuspend      = 7
	napiThreaded        = 8

	queueID      = 1
	queueIfIndex = 2
	queueType    = 3
	queueNAPI    = 4

	queueTypeRx = 0
	queueTypeTx = 1

	qstatIfIndex   = 1
	qstatQueueType = 2
	qstatQueueID   = 3
	qstatScope     = 4

	qstatScopeQueue = 1
)

// qstatNames are the counters of qstats-get by attribute number, starting at
// qstatFirst (Documentation/netlink/specs/netdev.yaml, attribute set qstats).
var qstatNames = [...]string{
	"rx-packets", "rx-bytes", "tx-packets", "tx-bytes", "rx-alloc-fail",
	"rx-hw-drops", "rx-hw-drop-overruns", "rx-csum-complete", "rx-csum-unnecessary",
	"rx-csum-none", "rx-csum-bad", "rx-hw-gro-packets", "rx-hw-gro-bytes",
	"rx-hw-gro-wire-packets", "rx-hw-gro-wire-bytes", "rx-hw-drop-ratelimits",
	"tx-hw-drops", "tx-hw-drop-errors", "tx-csum-none", "tx-needs-csum",
	"tx-hw-gso-packets", "tx-hw-gso-bytes", "tx-hw-gso-wire-packets",
	"tx-hw-gso-wire-bytes", "tx-hw-drop-ratelimits", "tx-stop", "tx-wake",
}

const qstatFirst = 8

// netdevSource asks the "netdev" family (Linux 6.7 and later; the single
// commands came later: queue-get and napi-get 6.8, qstats-get 6.9, napi-set
// 6.13). Dumps need no privilege. A kernel without the family or the command
// gives host.ErrUnsupported.
type netdevSource struct{ family family }

func (s netdevSource) napis() ([]host.NAPI, error) {
	return dump(s.family, "napi-get", netdevNAPIGet, nil, decodeNAPI)
}

func (s netdevSource) queues() ([]host.Queue, error) {
	return dump(s.family, "queue-get", netdevQueueGet, nil, decodeQueue)
}

// qstats lists the counters of every queue whose driver keeps them this way.
func (s netdevSource) qstats() ([]host.QStat, error) {
	scope := appendUintAttr(nil, qstatScope, qstatScopeQueue)
	return dump(s.family, "qstats-get", netdevQStatsGet, scope, decodeQStat)
}

func dump[T any](f family, name string, command uint8, attrs []byte, decode func([]byte) (T, error)) ([]T, error) {
	op := "netlink " + f.name + " " + name
	answers, err := f.request(command, unix.NLM_F_DUMP, attrs)
	if err != nil {
		return nil, readError(op, err, strict)
	}
	objects := make([]T, 0, len(answers))
	for _, a := range answers {
		object, err := decode(a)
		if err != nil {
			return nil, failure(op, host.ErrInconclusive, "%w", err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// decodeNAPI reads the attributes of one napi-get answer. Unknown ones are
// passed over; a missing IRQ is -1 and a missing PID 0.
func decodeNAPI(b []byte) (host.NAPI, error) {
	n := host.NAPI{IRQ: -1}
	err := eachAttr(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case napiIfIndex:
			n.IfIndex, err = attrInt(value)
		case napiID:
			n.ID, err = attrInt(value)
		case napiIRQ:
			n.IRQ, err = attrInt(value)
		case napiPID:
			n.PID, err = attrInt(value)
		case napiDeferHardIRQs:
			n.DeferHardIRQs, err = attrUint(value)
		case napiGROFlushTimeout:
			n.GROFlushTimeout, err = attrUint(value)
		case napiIRQSuspend:
			n.IRQSuspend, err = attrUint(value)
		case napiThreaded:
			n.Threaded, err = attrInt(value)
		}
		return wrapAttr("napi", kind, err)
	})
	if err == nil && (n.IfIndex == 0 || n.ID == 0) {
		err = fmt.Errorf("napi %d of interface %d: number missing", n.ID, n.IfIndex)
	}
	if err != nil {
		return host.NAPI{}, err
	}
	return n, nil
}

// decodeQueue reads the attributes of one queue-get answer.
func decodeQueue(b []byte) (host.Queue, error) {
	q := host.Queue{ID: -1, NAPI: -1}
	side := -1
	err := eachAttr(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case queueID:
			q.ID, err = attrInt(value)
		case queueIfIndex:
			q.IfIndex, err = attrInt(value)
		case queueType:
			side, err = attrInt(value)
		case queueNAPI:
			q.NAPI, err = attrInt(value)
		}
		return wrapAttr("queue", kind, err)
	})
	if err == nil {
		q.Tx, err = queueSide(q.IfIndex, q.ID, side)
	}
	if err != nil {
		return host.Queue{}, err
	}
	return q, nil
}

// decodeQStat reads the attributes of one qstats-get answer with queue scope.
// Counters that are not in the table are passed over: they have no name here.
func decodeQStat(b []byte) (host.QStat, error) {
	s := host.QStat{ID: -1, Counters: map[string]uint64{}}
	side := -1
	err := eachAttr(b, func(kind uint16, value []byte) (err error) {
		switch i := int(kind) - qstatFirst; {
		case kind == qstatIfIndex:
			s.IfIndex, err = attrInt(value)
		case kind == qstatQueueType:
			side, err = attrInt(value)
		case kind == qstatQueueID:
			s.ID, err = attrInt(value)
		case i >= 0 && i < len(qstatNames):
			s.Counters[qstatNames[i]], err = attrUint(value)
		}
		return wrapAttr("queue counter", kind, err)
	})
	if err == nil {
		s.Tx, err = queueSide(s.IfIndex, s.ID, side)
	}
	if err != nil {
		return host.QStat{}, err
	}
	return s, nil
}

func queueSide(ifindex, id, side int) (tx bool, err error) {
	if ifindex == 0 || id < 0 || (side != queueTypeRx && side != queueTypeTx) {
		return false, fmt.Errorf("queue %d of interface %d: number missing or type %d", id, ifindex, side)
	}
	return side == queueTypeTx, nil
}

func wrapAttr(object string, kind uint16, err error) error {
	if err != nil {
		return fmt.Errorf("%s attribute %d: %w", object, kind, err)
	}
	return nil
}

// napi reads one NAPI by its number.
func (s netdevSource) napi(id int) (host.NAPI, error) {
	op := fmt.Sprintf("netlink %s napi-get %d", s.family.name, id)
	answers, err := s.family.request(netdevNAPIGet, 0, appendUint32Attr(nil, napiID, uint32(id)))
	if err != nil {
		return host.NAPI{}, readError(op, err, strict)
	}
	if len(answers) != 1 {
		return host.NAPI{}, failure(op, host.ErrInconclusive, "%d answers", len(answers))
	}
	n, err := decodeNAPI(answers[0])
	if err != nil {
		return host.NAPI{}, failure(op, host.ErrInconclusive, "%w", err)
	}
	return n, nil
}

// napiChanges encodes a napi-set that brings old to want and sends only the
// attributes that differ: older kernels refuse ones they do not know, and what
// is not sent cannot undo somebody else's change. Empty if there is none.
func napiChanges(old, want host.NAPI) []byte {
	var b []byte
	add := func(kind uint16, old, want uint64) {
		if old != want {
			b = appendUintAttr(b, kind, want)
		}
	}
	add(napiDeferHardIRQs, old.DeferHardIRQs, want.DeferHardIRQs)
	add(napiGROFlushTimeout, old.GROFlushTimeout, want.GROFlushTimeout)
	add(napiIRQSuspend, old.IRQSuspend, want.IRQSuspend)
	add(napiThreaded, uint64(old.Threaded), uint64(want.Threaded))
	if len(b) == 0 {
		return nil
	}
	return append(appendUint32Attr(nil, napiID, uint32(want.ID)), b...)
}
