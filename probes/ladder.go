package probes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// object is one compiled object as far as this kernel took it.
type object struct {
	decl     objectDecl
	maps     map[string]*ebpf.Map
	programs []*program
	// refusals are the hooks that no rung could serve, by name.
	refusals map[string]refusal
	// broken is why nothing of this object could be loaded.
	broken *refusal
	spec   *ebpf.CollectionSpec
	types  kernelTypes
	// attachNs and detachNs are the CPU time that attaching and detaching all
	// programs took last.
	attachNs, detachNs float64
}

// program is a loaded program and, while it is attached, its link.
type program struct {
	hook  string
	group string // as that of the hook
	rung  rung
	prog  *ebpf.Program
	link  link.Link
	// better is the error of the best rung, if this is a lower one.
	better error
	// cost is what it cost while statistics of ours were on, before they came
	// on last, when the kernel had counted costSince. Others may turn them on
	// too.
	cost, costSince runtimeCost
}

// runtimeCost is how often a program ran and for how long, in ns.
type runtimeCost struct{ runs, ns uint64 }

// counted is what the kernel has counted of a program since it was loaded.
func (p *program) counted() (runtimeCost, *ebpf.ProgramStats, error) {
	st, err := p.prog.Stats()
	if err != nil {
		return runtimeCost{}, nil, fmt.Errorf("read statistics of program %s: %w", p.rung.program, err)
	}
	return runtimeCost{st.RunCount, uint64(st.Runtime)}, st, nil
}

func (c runtimeCost) plus(later, earlier runtimeCost) runtimeCost {
	return runtimeCost{c.runs + later.runs - earlier.runs, c.ns + later.ns - earlier.ns}
}

// refusal is a state with its reason.
type refusal struct {
	state      counters.State
	reason     string
	capability string
}

// openObject creates the maps, loads the best program that the kernel takes
// for each hook, and attaches it; a windowed object is detached again. It never
// fails: it remembers why.
func openObject(d objectDecl, hooks []hook, tune func(*ebpf.CollectionSpec) error, cache *btf.Cache) *object {
	o := &object{decl: d, refusals: make(map[string]refusal)}
	if len(hooks) == 0 {
		return o
	}
	fail := func(err error) *object {
		r := classify(err)
		o.broken = &r
		return o
	}
	spec, err := d.load()
	if err != nil {
		return fail(fmt.Errorf("read object %s: %w", d.name, err))
	}
	if err := tune(spec); err != nil {
		return fail(err)
	}
	if hooks, err = o.located(spec, hooks); err != nil {
		return fail(err)
	}
	o.spec = spec
	created, err := createMaps(spec)
	if err != nil {
		return fail(err)
	}
	o.maps = created
	modules := moduleTypes(d.modules, cache)
	if kernel, err := cache.Kernel(); err == nil {
		o.types = append(kernelTypes{kernel}, modules...)
	}
	loader := loader{spec: spec, maps: created, cache: cache, modules: modules}
	if err := o.climb(loader, hooks); err != nil {
		return fail(err)
	}
	return o
}

// located sets the addresses of functions in a specification, and leaves out
// hooks whose function has none here.
func (o *object) located(spec *ebpf.CollectionSpec, hooks []hook) ([]hook, error) {
	var out []hook
	for _, h := range hooks {
		if h.function != "" {
			at := symbolAddress(h.function)
			if at == 0 {
				o.refusals[h.name] = refusal{state: counters.Denied, reason: "/proc/kallsyms hides " + h.function + " (CAP_SYSLOG shows it)", capability: "CAP_SYSLOG"}
				continue
			}
			if err := spec.Variables[h.address].Set(at); err != nil {
				return nil, fmt.Errorf("set %s: %w", h.address, err)
			}
		}
		out = append(out, h)
	}
	return out, nil
}

// climb loads everything before it attaches anything: loading takes tens of
// ms, and what is attached meanwhile would run for nothing.
func (o *object) climb(l loader, hooks []hook) error {
	ladders := make([]*ladder, 0, len(hooks))
	for _, h := range hooks {
		c := &ladder{hook: h}
		c.load(l)
		ladders = append(ladders, c)
	}
	o.attachNs = threadTime(func() {
		for _, c := range ladders {
			c.attach(l)
		}
	})
	for _, c := range ladders {
		if c.program == nil {
			o.refusals[c.hook.name] = classify(c.refused)
			continue
		}
		o.programs = append(o.programs, c.program)
	}
	if !o.decl.windowed {
		return nil
	}
	// Attached once all the same: a raw program loads whether or not its
	// tracepoint exists, and a window must not fail for that later.
	return o.detachAll()
}

// createMaps stores variables in the contents of their maps. Asked to do so, the
// library would also map those into memory, and the kernel would keep closed ones
// until the garbage collector comes by.
func createMaps(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	for _, v := range spec.Variables {
		m := spec.Maps[v.SectionName]
		if len(m.Contents) == 0 {
			m.Contents = []ebpf.MapKV{{Key: uint32(0), Value: make([]byte, m.ValueSize)}}
		}
		data, ok := m.Contents[0].Value.([]byte)
		if !ok || int(v.Offset)+len(v.Value) > len(data) {
			return nil, fmt.Errorf("set %s: its map %s has no room for it", v.Name, v.SectionName)
		}
		copy(data[v.Offset:], v.Value)
	}
	only := &ebpf.CollectionSpec{Maps: spec.Maps, Types: spec.Types, ByteOrder: spec.ByteOrder}
	coll, err := ebpf.NewCollection(only)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", err)
	}
	out := maps.Clone(coll.Maps)
	for name := range out {
		coll.DetachMap(name)
	}
	coll.Close()
	return out, nil
}

// moduleTypes are the types of those modules that are loaded as modules.
func moduleTypes(names []string, cache *btf.Cache) []*btf.Spec {
	var out []*btf.Spec
	for _, name := range names {
		if spec, err := cache.Module(name); err == nil {
			out = append(out, spec)
		}
	}
	return out
}

// kernelTypes are those of the kernel, and of modules after it; none without BTF.
type kernelTypes []*btf.Spec

// has tells whether a structure is known.
func (k kernelTypes) has(name string) bool {
	return slices.ContainsFunc(k, func(types *btf.Spec) bool {
		var found *btf.Struct
		return types.TypeByName(name, &found) == nil
	})
}

// hasValue tells whether an enumeration has a value of that name.
func (k kernelTypes) hasValue(enum, name string) bool {
	return slices.ContainsFunc(k, func(types *btf.Spec) bool {
		var found *btf.Enum
		return types.TypeByName(enum, &found) == nil &&
			slices.ContainsFunc(found.Values, func(v btf.EnumValue) bool { return v.Name == name })
	})
}

// missing says what a probe lacks that needs certain types, "" if nothing.
func (k kernelTypes) missing(p probe) string {
	switch {
	case !slices.ContainsFunc(p.types, func(name string) bool { return !k.has(name) }):
		return ""
	case len(k) == 0:
		return noBTF
	}
	return withoutTypes("/sys", p.module)
}

// withoutTypes is why the types of a module are not known: a kernel may have
// loaded it and still describe none of it, if it was built or stripped so.
func withoutTypes(sys, module string) string {
	exists := func(path string) bool {
		_, err := os.Stat(sys + path)
		return err == nil
	}
	if exists("/module/"+module) && !exists("/kernel/btf/"+module) {
		return module + " has no BTF here"
	}
	return "no " + module + " in this kernel"
}

// loader loads single programs into one set of maps, so that one refused
// program does not take the others with it.
type loader struct {
	spec    *ebpf.CollectionSpec
	maps    map[string]*ebpf.Map
	cache   *btf.Cache
	modules []*btf.Spec
}

// ladder is how far a hook has come down its rungs, from the best.
type ladder struct {
	hook hook
	next int // the rung to try next
	// program is loaded, or nil if no rung is left.
	program *program
	// refused is the error of the best rung that this kernel has: it says why
	// that way is closed.
	refused error
}

// load loads the next rung that the kernel takes.
func (c *ladder) load(l loader) {
	for c.program == nil && c.next < len(c.hook.rungs) {
		r := c.hook.rungs[c.next]
		c.next++
		prog, err := l.load(r.program)
		if err != nil {
			c.refuse(fmt.Errorf("load %s/%s: %w", r.how, r.target, err))
			continue
		}
		c.program = &program{hook: c.hook.name, group: c.hook.group, rung: r, prog: prog, better: c.refused}
	}
}

// attach attaches what was loaded, or else the next rung that can be.
func (c *ladder) attach(l loader) {
	for c.program != nil {
		err := c.program.attach()
		if err == nil {
			return
		}
		c.refuse(errors.Join(err, c.program.prog.Close()))
		c.program = nil
		c.load(l)
	}
}

func (c *ladder) refuse(err error) {
	if c.refused == nil || classify(c.refused).state == counters.Unsupported && errors.Is(err, unix.EPERM) {
		c.refused = err
	}
}

func (l loader) load(name string) (*ebpf.Program, error) {
	spec, ok := l.spec.Programs[name]
	if !ok {
		return nil, fmt.Errorf("program %s is not in the object", name)
	}
	coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
		Maps:      l.spec.Maps,
		Programs:  map[string]*ebpf.ProgramSpec{name: spec},
		Types:     l.spec.Types,
		ByteOrder: l.spec.ByteOrder,
	}, ebpf.CollectionOptions{
		MapReplacements: l.maps,
		Cache:           l.cache,
		Programs:        ebpf.ProgramOptions{ExtraRelocationTargets: l.modules},
	})
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

func (p *program) attach() error {
	if p.link != nil {
		return nil
	}
	var err error
	if p.rung.how == rawTracepoint {
		p.link, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: p.rung.target, Program: p.prog})
	} else {
		p.link, err = link.AttachTracing(link.TracingOptions{Program: p.prog})
	}
	if err != nil {
		p.link = nil // a nil pointer inside the interface would not be nil
		return fmt.Errorf("attach %s/%s: %w", p.rung.how, p.rung.target, err)
	}
	return nil
}

func (p *program) detach() error {
	if p.link == nil {
		return nil
	}
	err := p.link.Close()
	p.link = nil
	if err != nil {
		return fmt.Errorf("detach %s/%s: %w", p.rung.how, p.rung.target, err)
	}
	return nil
}

func (o *object) loaded() bool { return len(o.programs) > 0 }

func (o *object) find(hookName string) *program {
	for _, p := range o.programs {
		if p.hook == hookName {
			return p
		}
	}
	return nil
}

func (o *object) close() error {
	errs := []error{o.detachAll()}
	for _, p := range o.programs {
		errs = append(errs, p.prog.Close())
	}
	for _, name := range slices.Sorted(maps.Keys(o.maps)) {
		errs = append(errs, o.maps[name].Close())
	}
	o.programs, o.maps = nil, nil
	return errors.Join(errs...)
}

// attachAll attaches what was loaded; what is attached stays so.
func (o *object) attachAll() error {
	var err error
	o.attachNs = threadTime(func() {
		for _, p := range o.programs {
			if err = p.attach(); err != nil {
				return
			}
		}
	})
	if err != nil {
		return errors.Join(err, o.detachAll())
	}
	return nil
}

// switchedOff tells whether a program has stopped counting because of the rate.
func (o *object) switchedOff() bool {
	off, known := o.variable("switched_off")
	return known && off != 0
}

func (o *object) detachAll() error {
	var errs []error
	o.detachNs = threadTime(func() {
		for _, p := range slices.Backward(o.programs) {
			errs = append(errs, p.detach())
		}
	})
	return errors.Join(errs...)
}

// threadTime is the CPU time, in ns, that do takes on its thread. Patching
// kernel text interrupts all CPUs and waits for them, so it stands for what
// they lose too.
func threadTime(do func()) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := clockNs(unix.CLOCK_THREAD_CPUTIME_ID)
	do()
	return float64(clockNs(unix.CLOCK_THREAD_CPUTIME_ID) - before)
}

// setVariable writes one variable of a loaded object through its map, which
// needs no mmap of the map (5.5 and later).
func (o *object) setVariable(name string, value uint32) error {
	v := o.spec.Variables[name]
	if v == nil {
		return fmt.Errorf("set %s: no such variable", name)
	}
	m := o.maps[v.SectionName]
	if m == nil {
		return fmt.Errorf("set %s: its map %s is not loaded", name, v.SectionName)
	}
	data, err := m.LookupBytes(uint32(0))
	if err != nil {
		return fmt.Errorf("set %s to %d: %w", name, value, err)
	}
	o.spec.ByteOrder.PutUint32(data[v.Offset:], value)
	if err := m.Put(uint32(0), data); err != nil {
		return fmt.Errorf("set %s to %d: %w", name, value, err)
	}
	return nil
}

// variable reads a 32-bit or 64-bit variable of a loaded object.
func (o *object) variable(name string) (uint64, bool) {
	if o == nil || o.spec == nil || o.spec.Variables[name] == nil {
		return 0, false
	}
	v := o.spec.Variables[name]
	m := o.maps[v.SectionName]
	if m == nil {
		return 0, false
	}
	data, err := m.LookupBytes(uint32(0))
	if err != nil || int(v.Offset)+len(v.Value) > len(data) {
		return 0, false
	}
	data = data[v.Offset:]
	if len(v.Value) == 8 {
		return o.spec.ByteOrder.Uint64(data), true
	}
	return uint64(o.spec.ByteOrder.Uint32(data)), true
}

// judge turns what happened to hooks into the state of every probe.
func (s *Session) judge() []counters.Status {
	var out []counters.Status
	for _, p := range probeTable() {
		st := counters.Status{Name: p.name, Doc: p.doc, State: counters.Off}
		if s.wants(p.name) {
			s.objects[p.object].judge(p, &st)
		}
		if st.State == counters.Attached {
			st.Reason = joinNotes(append([]string{st.Reason}, s.notes(p.name)...)...)
		}
		out = append(out, st)
	}
	return out
}

// notes say what an attached probe does not know here.
func (s *Session) notes(probe string) []string {
	var out []string
	switch probe {
	case "budget":
		if s.budget.assumed {
			out = append(out, fmt.Sprintf(
				"netdev_budget and netdev_budget_usecs cannot be read in this network namespace: causes assume %d packets and %d ticks",
				int32(s.budget.packets), s.budget.jiffies))
		}
		if exit := s.objects["core"].find("softirq_exit"); exit.rung.loss == "" && !s.knowsKernelCounters() {
			out = append(out, "squeezes are inferred until a packet passes a backlog: the one sent over loopback did not")
		}
		if s.ticks.byClock {
			out = append(out, "this kernel has no bpf_jiffies64 (Linux 5.6): a run counts as squeezed by time only if it took the whole of netdev_budget_usecs, and is missed up to one tick before")
		}
	case "irq":
		if n := s.uncounted; n > 0 {
			out = append(out, fmt.Sprintf("%d interrupt lines are not counted: only %d are, up to number %d", n, maxIRQs, maxIRQNumber))
		}
	case "drops":
		if !s.objects["drops"].tellsBacklog() {
			out = append(out, "backlog drops are not told from others: this kernel has no SKB_DROP_REASON_CPU_BACKLOG (Linux 5.18)")
		}
	}
	return out
}

func joinNotes(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

func (o *object) judge(p probe, st *counters.Status) {
	if o.broken != nil {
		o.broken.fill(st)
		return
	}
	var hooks, notes []string
	for _, name := range p.needs {
		if r, refused := o.refusals[name]; refused {
			r.fill(st)
			return
		}
	}
	if lacks := o.types.missing(p); lacks != "" {
		refusal{state: counters.Unsupported, reason: lacks}.fill(st)
		return
	}
	st.State = counters.Attached
	for _, name := range slices.Concat(p.needs, p.uses) {
		if r, refused := o.refusals[name]; refused {
			notes = append(notes, fmt.Sprintf("without %s: %s", name, r.reason))
			continue
		}
		prog := o.find(name)
		hooks = append(hooks, string(prog.rung.how)+"/"+prog.rung.target)
		if prog.rung.loss != "" {
			notes = append(notes, prog.rung.loss+": "+o.compromise(prog))
		}
	}
	st.Hook = strings.Join(hooks, " ")
	st.Reason = joinNotes(notes...)
}

// compromise says why a program is not the best for its hook.
func (o *object) compromise(p *program) string {
	if len(o.types) == 0 {
		return noBTF // then the refusals speak of details of that
	}
	return classify(p.better).reason
}

func (r refusal) fill(st *counters.Status) {
	st.State, st.Reason, st.Capability = r.state, r.reason, r.capability
}

// classify turns an error of loading or attaching into a state.
func classify(err error) refusal {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, btf.ErrNotFound),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EINVAL) && !errors.As(err, &verifier):
		return refusal{state: counters.Unsupported, reason: err.Error()}
	case errors.Is(err, unix.EPERM):
		return denial(err, readPrivileges())
	case errors.As(err, &verifier):
		return refusal{state: counters.Failed, reason: verdict(err, verifier)}
	}
	return refusal{state: counters.Failed, reason: err.Error()}
}

// verdict is the verifier's last word, which is its reason.
func verdict(err error, v *ebpf.VerifierError) string {
	for i := len(v.Log) - 1; i >= 0; i-- {
		line := strings.TrimSpace(v.Log[i])
		if line == "" || strings.HasPrefix(line, "processed ") {
			continue // statistics of the verifier come last
		}
		return fmt.Sprintf("%s (verifier: %s)", v.Cause, line)
	}
	return err.Error()
}

// privileges is what this process may do, as far as BPF is concerned.
type privileges struct {
	bpf, perfmon, admin bool
	// adminOnly: this kernel has no capabilities for BPF alone.
	adminOnly bool
	// memlock: memory of programs and maps counts against RLIMIT_MEMLOCK
	// (before 5.11), which cannot be raised.
	memlock bool
	// nested is true in a user namespace, where capabilities do not count.
	nested bool
}

// Bits of CapEff: include/uapi/linux/capability.h.
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

func readPrivileges() privileges {
	var p privileges
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return p
	}
	for line := range strings.Lines(string(status)) {
		text, found := strings.CutPrefix(line, "CapEff:")
		if !found {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return p
		}
		p.admin = caps>>capSysAdmin&1 == 1
		p.perfmon = caps>>capPerfmon&1 == 1
		p.bpf = caps>>capBPF&1 == 1
	}
	if last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		n, err := strconv.Atoi(strings.TrimSpace(string(last)))
		p.adminOnly = err == nil && n < capBPF
	}
	p.memlock = rlimit.RemoveMemlock() != nil
	uids, err := os.ReadFile("/proc/self/uid_map")
	p.nested = err == nil && !slices.Equal(strings.Fields(string(uids)), []string{"0", "0", "4294967295"})
	return p
}

// denial names the capability that is missing. If none is, the kernel refuses
// this kind of program to everybody (lockdown, or tracing compiled out).
func denial(err error, p privileges) refusal {
	r := refusal{state: counters.Denied, reason: err.Error()}
	wanted := map[string]bool{"CAP_BPF": p.admin || p.bpf, "CAP_PERFMON": p.admin || p.perfmon}
	if p.adminOnly {
		wanted = map[string]bool{"CAP_SYS_ADMIN": p.admin}
	}
	var missing []string
	for _, capability := range slices.Sorted(maps.Keys(wanted)) {
		if p.nested || !wanted[capability] {
			missing = append(missing, capability)
		}
	}
	r.capability = strings.Join(missing, " and ")
	switch {
	case p.nested:
		r.reason += " (in a user namespace)"
		r.capability += " in the initial user namespace"
	case len(missing) > 0:
	case p.memlock:
		r.reason += " (before Linux 5.11 memory of eBPF counts against RLIMIT_MEMLOCK, which cannot be raised)"
		r.capability = "CAP_SYS_RESOURCE"
	default:
		r.state = counters.Unsupported
		r.reason += " although the capabilities are there: this kernel refuses it to everybody"
	}
	return r
}
