package probes

import "time"

const (
	// creditLength is how far ahead the limit may be spent: a slice is followed
	// by a pause of at most about that length, which keeps several slices in a
	// window of ten seconds and makes attaching and detaching, some ms of CPU
	// time, a small part of each.
	creditLength = 2 * time.Second
	// packetCostNs is what an event of a per-packet probe costs: their bodies
	// are longer than those of the default probes (TestCostTable), and the
	// programs at the exit of a function come uncounted.
	packetCostNs = 150
	// packetCredit is the part of a window's allowance that packets may cost in
	// a window of their own.
	packetCredit = 0.2
)

// account keeps what the probes cost the busiest CPU within a share of its
// time. All times are in ns of the monotonic clock, all costs in ns of CPU
// time. What is not spent is not saved up: a quiet hour is no reason to load a
// CPU for a minute.
type account struct {
	share float64 // of the CPU's time
	owed  float64 // spent in advance, as of atNs
	atNs  uint64
	// rate is what the attached probes cost per ns when last looked at, at
	// lookedNs.
	rate     float64
	lookedNs uint64
	// attachNs and detachNs are what that cost last.
	attachNs, detachNs float64
	// observed is true once there was a slice, which a session gets on credit.
	observed bool
}

// charge adds a cost, after what time has paid back since the last one.
func (a *account) charge(now uint64, cost float64) {
	paid := a.share * float64(now-a.atNs)
	a.owed = max(0, a.owed-paid) + cost
	a.atNs = now
}

// look charges what attached probes have cost since the last look.
func (a *account) look(now uint64, cost float64) {
	a.charge(now, cost)
	// Of the moment right after attaching nothing can be said.
	if elapsed := now - a.lookedNs; elapsed >= uint64(time.Millisecond) {
		a.rate = cost / float64(elapsed)
		a.lookedNs = now
	}
}

// attached charges the attaching, which took so long. What came first ran
// meanwhile without being counted, and so did what goes last in detached.
func (a *account) attached(now, took uint64, cost float64) {
	a.attachNs = cost
	a.charge(now, cost+a.rate*float64(took))
	a.lookedNs = now
}

// detached charges the detaching, which took so long.
func (a *account) detached(now, took uint64, cost float64) {
	a.detachNs = cost
	a.charge(now, cost+a.rate*float64(took))
}

// affordable: the probes may stay attached for good at the rate seen last.
func (a *account) affordable() bool { return a.rate <= a.share }

// detaching is what that will cost: until it has been seen, as much as attaching.
func (a *account) detaching() float64 {
	if a.detachNs == 0 {
		return a.attachNs
	}
	return a.detachNs
}

// decide says whether probes that are attached now or not are to be, with left
// of the window to go, and when to decide again.
func (a *account) decide(now uint64, left time.Duration, attached bool) (on bool, until time.Duration) {
	if !a.observed {
		a.observed = true
		return true, shortestSlice
	}
	if attached {
		stay := a.stay(left)
		return stay > 0, stay
	}
	if pause := a.pause(now, left); pause > 0 {
		return false, pause
	}
	return true, shortestSlice
}

// stay says how long probes may stay attached before the next look, with left
// of the window to go; 0 means that they must be detached.
func (a *account) stay(left time.Duration) time.Duration {
	if a.affordable() {
		return lookEvery
	}
	if a.rate*float64(left) <= a.detaching() {
		return min(left, lookEvery) // to go would cost more than to stay
	}
	credit := a.share*float64(min(left, creditLength)) - a.owed - a.detaching()
	length := time.Duration(credit / a.rate)
	if length < time.Millisecond {
		return 0
	}
	return min(length, lookEvery)
}

// slice is what the shortest one costs.
func (a *account) slice() float64 {
	return a.attachNs + a.rate*float64(shortestSlice) + a.detaching()
}

// perPacket says what packets may cost in a window of their own, with left of
// the whole window to go, and whether there may be one: only if the default
// probes come to a slice afterwards all the same, or else windows in a row
// would all go to packets, which say nothing of latency and squeezes. Like the
// first slice, the first of a session is on credit. switching is what attaching
// and detaching its probe takes.
func (a *account) perPacket(now uint64, left time.Duration, switching float64, first bool) (credit float64, open bool) {
	a.charge(now, 0)
	credit = a.share * min(packetCredit*float64(left), float64(creditLength))
	rest := min(a.slice(), a.rate*float64(left))
	// What packets cost is looked at now and then, and so is the time.
	need := a.owed + switching + 1.5*credit + rest
	return credit, first || need <= a.share*float64(left-lookEvery)
}

// pause says how long detached probes must stay so, with left of the window to
// go: until all is paid back, or to the end if the rest of the window could not
// pay for another slice.
func (a *account) pause(now uint64, left time.Duration) time.Duration {
	a.charge(now, 0)
	if a.share*float64(left) < a.owed+a.slice() {
		return left
	}
	if pause := time.Duration(a.owed / a.share); pause >= time.Millisecond {
		return pause
	}
	return 0
}
