// Package guard keeps a host as a plan says it should be, and fights nobody.
//
// It listens: to links and queues that come and go, to CPUs, to ethtool, and to
// other programs that write the same files. After an event it asks what differs
// from what is wanted, and brings it back through package apply, as a
// transaction. While nothing happens it does nothing and sets no timer.
//
// # What is restored, and what is left to others
//
// A setting that a driver or the kernel reset (a link flap, other queues, a CPU
// that came or went) is brought back at once, as often as it happens, though in
// the long run not more often than every ten seconds: a link that flaps for
// hours is no reason to write for hours.
//
// A setting that somebody else wrote is brought back once. When the same one is
// written again within a day, the other means it: the guard leaves it alone from
// then on, says who it was where the kernel tells, and reports it. So it does at
// once with what napitune itself was told to do otherwise: a setting of a
// transaction that was rolled back, or that a later transaction set to another
// value. A setting that the host refuses twice is left until something happens
// that may change its mind, such as a link that comes up. What was left is taken up
// again when the guard is told to read its profile anew, and after a restart.
//
// # Journals
//
// Settings that a standing transaction of this boot has written (the boot
// profile's, as a rule) are brought back with apply.Applier.Restore, which
// leaves no journal: rolling that transaction back still brings the values from
// before it, however often they were restored. Settings that no transaction has
// written yet (of a device that appeared later, or right at boot and reset by
// its driver since) are set by a transaction of their own, once for each
// setting; it can be rolled back like any other. So the number of journals is
// bounded by the number of settings and not by time.
//
// Keeper decides and is pure; Loop does.
package guard

import (
	"time"

	"github.com/napitune/napitune/detect/knob"
)

const (
	// quiet is how long the host must have been quiet before it is looked at: a
	// link that comes up tells so in several messages.
	quiet = 50 * time.Millisecond
	// longest bounds that wait where it never is quiet.
	longest = 250 * time.Millisecond
	// share bounds the part of a processor that looking takes while events storm,
	// to one in share; allowance is how much looking may go before it.
	share     = 4
	allowance = 2 * time.Second
	// maxPause bounds the pause that follows from it, for hosts where one look
	// takes long.
	maxPause = time.Second
	// grace is how long a difference that nothing explains is only watched: the
	// kernel sends its messages after the driver has done its work.
	grace = 250 * time.Millisecond
	// slack is how long after an event a driver may still reset something.
	slack = 2 * time.Second
	// followUp is a further look after an event, and lateFollowUp after one that may
	// have undone a setting, for what drivers do asynchronously (firmware resets take
	// seconds).
	followUp     = time.Second
	lateFollowUp = 15 * time.Second
	// memory is how long a rewrite by others counts. Hourly and nightly jobs come
	// back within it.
	memory = 25 * time.Hour
	// tooMany rewrites of one setting by others make the guard leave it.
	tooMany = 2
	// refusals of one setting make the guard leave it; retryRefused lies between.
	// longestRefused bounds the waits for a setting that is refused again after
	// events that should have helped.
	tooManyRefusals = 2
	retryRefused    = 30 * time.Second
	longestRefused  = time.Hour
	// burst restorations of one setting may follow each other at once; after
	// that there is one for each refill.
	burst  = 30
	refill = 10 * time.Second
	// waitFirst and waitLongest are the pauses while another transaction is under
	// way or the host cannot be read.
	waitFirst   = 500 * time.Millisecond
	waitLongest = 30 * time.Second
	// blindly is how often the host is looked at while a program that is known to
	// write the same settings runs and its writes cannot be watched.
	blindly = time.Minute
	// maxCauses bounds what is remembered of events.
	maxCauses = 4096
)

// ActionKind is what the guard did or decided.
type ActionKind string

// Kinds of actions.
const (
	Restored ActionKind = "restored" // a setting has its wanted value again
	Set      ActionKind = "set"      // it has it for the first time
	LeftIt   ActionKind = "left"     // from now on the setting is not touched
	TookUp   ActionKind = "took up"  // it is kept again
	Refused  ActionKind = "refused"  // the host did not take the value
	Waiting  ActionKind = "waiting"  // something keeps the guard from working for now
	Failed   ActionKind = "failed"   // reading or writing the host failed
)

// Action is one thing to tell.
type Action struct {
	Kind   ActionKind `json:"kind"`
	At     time.Time  `json:"at"`
	Ref    knob.Ref   `json:"ref,omitzero"`
	Before string     `json:"before,omitempty"` // what was found
	After  string     `json:"after,omitempty"`  // what it is now, or was to be
	// Cause says in words what undid the setting: "link change of eth0".
	Cause string `json:"cause,omitempty"`
	// By is the program that wrote it, where that is known.
	By string `json:"by,omitempty"`
	// Reason is the error or explanation.
	Reason string `json:"reason,omitempty"`
	// Took is the time from the first event to the written setting.
	Took time.Duration `json:"-"`
}

// Left is a setting that is left to others.
type Left struct {
	Ref     knob.Ref  `json:"ref"`
	Want    string    `json:"want"`
	Present string    `json:"present"` // when it was left
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	// Contested: somebody else writes it; otherwise the host refuses it or people
	// decided otherwise.
	Contested bool `json:"contested,omitempty"`
}

// Schema is the form of the Report.
const Schema = "napitune.guard/1"

// Report is the state of a guard, for people and other verbs.
type Report struct {
	Schema  string    `json:"schema"`
	PID     int       `json:"pid"`
	Boot    string    `json:"boot"`
	Since   time.Time `json:"since"`
	Profile string    `json:"profile,omitempty"`
	// Mistakes counts those in the file of the profile, as last read: what they are
	// about is not kept.
	Mistakes int `json:"mistakes,omitempty"`
	// Keeps is how many settings are as wanted or are brought there.
	Keeps int `json:"keeps"`
	// Looks counts how often the host was compared, Restorations the settings
	// brought back.
	Looks        int     `json:"looks"`
	Restorations int     `json:"restorations"`
	Last         *Action `json:"last,omitempty"` // the last restoration
	Left         []Left  `json:"left"`
	// Waiting says what keeps the guard from working, "" if nothing does.
	Waiting string `json:"waiting,omitempty"`
	// Ended: the guard has stopped and changed nothing by that.
	Ended bool `json:"ended,omitempty"`
}
