package counters

// subtraction subtracts rows and remembers the first counter that went
// backwards: totals of one session only grow, so that is never a zero.
type subtraction struct{ backwards string }

func rows[R any, K comparable](later, earlier []R, key func(R) K, sub func(a, b R) R) []R {
	if len(later) == 0 {
		return nil
	}
	before := make(map[K]R, len(earlier))
	for _, r := range earlier {
		before[key(r)] = r
	}
	out := make([]R, 0, len(later))
	for _, r := range later {
		out = append(out, sub(r, before[key(r)]))
	}
	return out
}

func (s *subtraction) n(what string, a, b uint64) uint64 {
	if a < b {
		if s.backwards == "" {
			s.backwards = what
		}
		return 0
	}
	return a - b
}

func (s *subtraction) list(what string, a, b []uint64) []uint64 {
	if len(a) < len(b) {
		s.n(what, 0, 1)
		return nil
	}
	if a == nil {
		return nil
	}
	out := append([]uint64(nil), a...)
	for i := range b {
		out[i] = s.n(what, a[i], b[i])
	}
	return out
}

func (s *subtraction) hist(what string, a, b Hist) Hist {
	return NewHist(s.list(what, a.Buckets, b.Buckets), s.n(what, a.Sum, b.Sum))
}

func (s *subtraction) cpu(a, b CPU) CPU {
	out := a
	out.Softirq = make(map[string]Softirq, len(a.Softirq))
	for name, v := range a.Softirq {
		w := b.Softirq[name]
		out.Softirq[name] = Softirq{
			Runs:      s.n(name, v.Runs, w.Runs),
			TimeNs:    s.n(name, v.TimeNs, w.TimeNs),
			TimedRuns: s.n(name, v.TimedRuns, w.TimedRuns),
		}
	}
	out.Rx, out.Tx = s.net("rx", a.Rx, b.Rx), s.net("tx", a.Tx, b.Tx)
	out.Budget = s.budget(a.Budget, b.Budget)
	out.Outside = Outside{
		ThreadedPolls: s.n("threaded polls", a.Outside.ThreadedPolls, b.Outside.ThreadedPolls),
		ThreadedWork:  s.n("threaded work", a.Outside.ThreadedWork, b.Outside.ThreadedWork),
		BusyPolls:     s.n("busy polls", a.Outside.BusyPolls, b.Outside.BusyPolls),
		BusyWork:      s.n("busy work", a.Outside.BusyWork, b.Outside.BusyWork),
		NetpollPolls:  s.n("netpoll polls", a.Outside.NetpollPolls, b.Outside.NetpollPolls),
		NetpollWork:   s.n("netpoll work", a.Outside.NetpollWork, b.Outside.NetpollWork),
	}
	out.Backlog.QueuePackets = s.hist("backlog length", a.Backlog.QueuePackets, b.Backlog.QueuePackets)
	out.NAPIOverflow = s.n("napi overflow", a.NAPIOverflow, b.NAPIOverflow)
	out.VirtioOverflow = s.n("virtio overflow", a.VirtioOverflow, b.VirtioOverflow)
	return out
}

func (s *subtraction) net(dir string, a, b NetSoftirq) NetSoftirq {
	return NetSoftirq{
		RaiseToEntryNs:  s.hist(dir+" raise to entry", a.RaiseToEntryNs, b.RaiseToEntryNs),
		RunNs:           s.hist(dir+" run time", a.RunNs, b.RunNs),
		KsoftirqdRuns:   s.n(dir+" ksoftirqd runs", a.KsoftirqdRuns, b.KsoftirqdRuns),
		KsoftirqdTimeNs: s.n(dir+" ksoftirqd time", a.KsoftirqdTimeNs, b.KsoftirqdTimeNs),
		Unraised:        s.n(dir+" unraised", a.Unraised, b.Unraised),
	}
}

func (s *subtraction) budget(a, b Budget) Budget {
	return Budget{
		Runs:            s.n("budget runs", a.Runs, b.Runs),
		Polls:           s.n("budget polls", a.Polls, b.Polls),
		Work:            s.n("budget work", a.Work, b.Work),
		Full:            s.n("full polls", a.Full, b.Full),
		SqueezedPackets: s.n("packet squeezes", a.SqueezedPackets, b.SqueezedPackets),
		SqueezedTime:    s.n("time squeezes", a.SqueezedTime, b.SqueezedTime),
		SqueezedBoth:    s.n("packet and time squeezes", a.SqueezedBoth, b.SqueezedBoth),
		MaxPolls:        a.MaxPolls,
		PollsPerRun:     s.list("polls per run", a.PollsPerRun, b.PollsPerRun),
		WorkPerRun:      s.hist("work per run", a.WorkPerRun, b.WorkPerRun),
	}
}

func (s *subtraction) napi(a, b NAPI) NAPI {
	out := a
	out.Polls = s.n("napi polls", a.Polls, b.Polls)
	out.Work = s.n("napi work", a.Work, b.Work)
	out.Full = s.n("napi full polls", a.Full, b.Full)
	out.Empty = s.n("napi empty polls", a.Empty, b.Empty)
	out.Outside = s.n("napi polls outside softirq", a.Outside, b.Outside)
	out.TimeNs = s.n("napi time", a.TimeNs, b.TimeNs)
	out.TimedPolls = s.n("napi timed polls", a.TimedPolls, b.TimedPolls)
	out.WorkPerPoll = s.hist("work per poll", a.WorkPerPoll, b.WorkPerPoll)
	return out
}

func (s *subtraction) irq(a, b IRQ) IRQ {
	out := a
	out.Count = s.n("interrupts", a.Count, b.Count)
	out.Unhandled = s.n("unhandled interrupts", a.Unhandled, b.Unhandled)
	out.TimeNs = s.n("interrupt time", a.TimeNs, b.TimeNs)
	out.TimedIRQs = s.n("timed interrupts", a.TimedIRQs, b.TimedIRQs)
	return out
}

func (s *subtraction) virtio(a, b Virtio) Virtio {
	out := a
	out.ArmedPolls = s.n("armed polls", a.ArmedPolls, b.ArmedPolls)
	out.UnarmedPolls = s.n("unarmed polls", a.UnarmedPolls, b.UnarmedPolls)
	out.RingReads = s.n("ring reads", a.RingReads, b.RingReads)
	out.Starved = s.n("starved ring", a.Starved, b.Starved)
	out.PendingEighths = s.list("pending buffers", a.PendingEighths, b.PendingEighths)
	return out
}

func (s *subtraction) gro(a, b GRO) GRO {
	out := a
	out.In = s.n("packets into GRO", a.In, b.In)
	out.Merged = s.n("merged packets", a.Merged, b.Merged)
	out.Held = s.n("held packets", a.Held, b.Held)
	out.Normal = s.n("normal packets", a.Normal, b.Normal)
	out.Consumed = s.n("consumed packets", a.Consumed, b.Consumed)
	out.Delivered = s.n("delivered skbs", a.Delivered, b.Delivered)
	out.Segments = s.n("delivered segments", a.Segments, b.Segments)
	out.TCPSegments = s.n("delivered TCP segments", a.TCPSegments, b.TCPSegments)
	out.SegmentsPerSKB = s.hist("segments per skb", a.SegmentsPerSKB, b.SegmentsPerSKB)
	return out
}

func (s *subtraction) window(a, b Window) Window {
	out := a
	out.AttachedNs = s.n("window", a.AttachedNs, b.AttachedNs)
	out.Events = s.n("window events", a.Events, b.Events)
	out.Skipped = s.n("window skipped events", a.Skipped, b.Skipped)
	out.SwitchedOff = s.n("window switch-offs", a.SwitchedOff, b.SwitchedOff)
	out.Overflow = s.n("window overflow", a.Overflow, b.Overflow)
	return out
}

func (s *subtraction) drop(a, b Drop) Drop {
	return Drop{
		CPU:           a.CPU,
		Backlog:       s.n("backlog drops", a.Backlog, b.Backlog),
		Other:         s.n("other drops", a.Other, b.Other),
		RPSInterrupts: s.n("RPS interrupts", a.RPSInterrupts, b.RPSInterrupts),
	}
}

func (s *subtraction) latency(a, b Latency) Latency {
	return Latency{
		CPU:            a.CPU,
		PollToSocketNs: s.hist("poll to socket", a.PollToSocketNs, b.PollToSocketNs),
		SocketToReadNs: s.hist("socket to read", a.SocketToReadNs, b.SocketToReadNs),
	}
}

func (s *subtraction) control(a, b Control) Control {
	return Control{CPU: a.CPU, CommandNs: s.hist("control commands", a.CommandNs, b.CommandNs)}
}

func (s *subtraction) cost(a, b ProgCost) ProgCost {
	out := a
	out.Runs = s.n("program runs", a.Runs, b.Runs)
	out.TimeNs = s.n("program time", a.TimeNs, b.TimeNs)
	out.Missed = s.n("program misses", a.Missed, b.Missed)
	return out
}
