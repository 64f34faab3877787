package owner

// daemon is a program that claims settings whenever it runs.
type daemon struct {
	comm       string // as in /proc/PID/comm, which is cut at 15 characters
	name       string
	habit      Habit
	when       string
	kinds      []string
	exceptions string
	remedy     string
}

// daemonRows: what each writes is in its sources, named on the row.
func daemonRows() []daemon {
	return []daemon{
		// irqbalance 1.9.5, activate.c: writes the mask of every interrupt that it
		// has placed anew, in rounds of 10 s unless -t says otherwise.
		{
			comm: "irqbalance", name: "irqbalance", habit: Always, when: "in each of its rounds (10 s unless told otherwise)", kinds: []string{"irq.affinity"},
			exceptions: "irqbalance.banned", remedy: "ban the interrupts in its policy script (irqbalance(1), --policyscript) or stop it",
		},
		// bpftune, netdev_backlog and net_budget tuners.
		{
			comm: "bpftune", name: "bpftune", habit: Always, when: "when its counters rise",
			kinds:  []string{"net.core.netdev_budget", "net.core.netdev_budget_usecs", "net.core.netdev_max_backlog", "net.core.flow_limit_cpu_bitmap"},
			remedy: "bpftune -a with a list of tuners that leaves these out, or stop it",
		},
		// katalyst-core, irqtuner controller.
		{
			comm: "katalyst-agent", name: "katalyst-agent", habit: Always, when: "in each round of its interrupt tuner",
			kinds: []string{"irq.affinity", "rps.cpus", "xps.cpus"}, remedy: "disable its irq-tuner",
		},
		// openEuler oeAware, net_hard_irq_tune.
		{
			comm: "oeaware", name: "oeAware", habit: Always, when: "in each round of net_hard_irq_tune",
			kinds: []string{"irq.affinity"}, remedy: "oeawarectl -d net_hard_irq_tune",
		},
		// google-guest-agent runs google_set_multiqueue at its start.
		{
			comm: "google_guest_ag", name: "google-guest-agent", habit: OnEvent, when: "when the agent starts",
			kinds:  []string{"irq.affinity", "xps.cpus"},
			remedy: "set_multiqueue = false in section [InstanceSetup] of /etc/default/instance_configs.cfg",
		},
	}
}

// daemons are the rows whose program runs.
func daemons(f *finder) []Owner {
	var out []Owner
	for _, d := range daemonRows() {
		if !f.runs(d.comm) {
			continue
		}
		o := Owner{Name: d.name, Habit: d.habit, When: d.when, Remedy: d.remedy, Exceptions: d.exceptions}
		for _, kind := range d.kinds {
			o.Claims = append(o.Claims, Claim{Kind: kind, Source: "it is running"})
		}
		out = append(out, o)
	}
	return out
}
