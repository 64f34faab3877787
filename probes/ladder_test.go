package probes

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/napitune/napitune/probes/counters"
)

// unnamed is an object in whose bytes names are spoilt: no kernel has the types
// or fields that were called so.
func unnamed(object []byte, names ...string) func() (*ebpf.CollectionSpec, error) {
	for _, name := range names {
		spoilt := []byte(name)
		spoilt[len(spoilt)-1] = '0'
		object = bytes.ReplaceAll(object, []byte(name), spoilt)
	}
	return func() (*ebpf.CollectionSpec, error) {
		return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	}
}

// openUnnamed opens the default probes of an object whose names are spoilt.
func openUnnamed(t *testing.T, names ...string) *Session {
	t.Helper()
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{options: o, objects: map[string]*object{}, budget: limits{packets: 300, jiffies: 2}}
	for _, d := range objectTable() {
		s.objects[d.name] = &object{decl: d}
	}
	core := objectTable()[0]
	core.load = unnamed(_CoreBytes, names...)
	s.objects["core"] = openObject(core, s.wantedHooks(core), s.tune, btf.NewCache())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestWithoutVirtqueues: Debian's 6.1 has the types of virtqueues in its module
// virtio_ring only, which hosts without virtio never load. Relocations that
// could not be made for them took everything known of devices along.
func TestWithoutVirtqueues(t *testing.T) {
	needRoot(t)
	for _, names := range [][]string{
		{"vring_virtqueue"},
		{"\x00virtqueue"},
		{"virtio_device"},
		{"vring_virtqueue", "\x00virtqueue", "virtio_device", "receive_queue"},
	} {
		core := openUnnamed(t, names...).objects["core"]
		if core.broken != nil {
			t.Fatalf("without %q: %s", names, core.broken.reason)
		}
		if p := core.find("napi_poll"); p == nil || p.rung.program != "btf_napi_poll" {
			t.Errorf("without %q: napi_poll is served by %+v, refused: %v", names, p, core.refusals["napi_poll"])
		}
		raw, err := loader{spec: core.spec, maps: core.maps, cache: btf.NewCache()}.load("raw_napi_poll")
		if err != nil {
			t.Errorf("without %q: %v", names, err)
			continue
		}
		_ = raw.Close()
	}
}

// TestHiddenFunction: a program that waits for a function is not loaded where its
// address is hidden: it would run for each call of any other and count none.
func TestHiddenFunction(t *testing.T) {
	needRoot(t)
	i := slices.IndexFunc(objectTable(), func(d objectDecl) bool { return d.name == "drops" })
	for function, hidden := range map[string]bool{"rps_trigger_softirq": false, "no_such_function": true} {
		drops := objectTable()[i]
		for n := range drops.hooks {
			if drops.hooks[n].function != "" {
				drops.hooks[n].function = function
			}
		}
		spec, err := drops.load()
		if err != nil {
			t.Fatal(err)
		}
		o := &object{refusals: map[string]refusal{}}
		left, err := o.located(spec, drops.hooks)
		if err != nil {
			t.Fatal(err)
		}
		var address uint64
		if err := spec.Variables["rps_trigger_addr"].Get(&address); err != nil {
			t.Fatal(err)
		}
		_, refused := o.refusals["csd_function_entry"]
		if refused != hidden || (address == 0) != hidden || (len(left) < len(drops.hooks)) != hidden {
			t.Errorf("%s: refused: %v, at %#x, %d of %d hooks", function, refused, address, len(left), len(drops.hooks))
		}
	}
}

// TestMissingTypes: a probe that lacks its types says which part of the kernel
// is missing, and the others go on.
func TestMissingTypes(t *testing.T) {
	others, err := loadGro() // names an sk_buff and no virtqueue
	if err != nil {
		t.Fatal(err)
	}
	all, err := loadCore()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		types  kernelTypes
		state  counters.State
		reason string
	}{
		{"all", kernelTypes{all.Types}, counters.Attached, ""},
		{"in a module", kernelTypes{others.Types, all.Types}, counters.Attached, ""},
		{"no module", kernelTypes{others.Types}, counters.Unsupported, withoutTypes("/sys", "virtio_ring")},
		{"none", nil, counters.Unsupported, "no BTF"},
	} {
		core := &object{types: tt.types}
		for _, h := range objectTable()[0].hooks {
			core.programs = append(core.programs, &program{hook: h.name, rung: h.rungs[0]})
		}
		for _, name := range []string{"virtio", "napi"} {
			p, _ := findProbe(name)
			var got counters.Status
			core.judge(p, &got)
			want := counters.Status{State: counters.Attached}
			if name == "virtio" {
				want = counters.Status{State: tt.state, Reason: tt.reason}
			}
			if got.State != want.State || got.Reason != want.Reason {
				t.Errorf("%s: %s is %s (%s), want %s (%s)", tt.name, name, got.State, got.Reason, want.State, want.Reason)
			}
		}
	}
}

// TestWithoutTypes: a module that is loaded without types is not missing.
func TestWithoutTypes(t *testing.T) {
	for _, tt := range []struct {
		name string
		have []string
		want string
	}{
		{"not loaded", nil, "no virtio_ring in this kernel"},
		{"loaded without types", []string{"module/virtio_ring"}, "virtio_ring has no BTF here"},
	} {
		sys := t.TempDir()
		for _, path := range tt.have {
			if err := os.MkdirAll(filepath.Join(sys, path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got := withoutTypes(sys, "virtio_ring"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestLowerRungSaysWhy: what a lower rung loses is laid to the refusal of the
// better one, and to missing types only where the kernel describes none.
func TestLowerRungSaysWhy(t *testing.T) {
	needRoot(t)
	core := openUnnamed(t, "napi_id").objects["core"]
	if p := core.find("napi_poll"); p == nil || p.rung.program != "bare_napi_poll" {
		t.Fatalf("napi_poll is served by %+v, want bare_napi_poll", p)
	}
	napi, _ := findProbe("napi")
	reason := func() string {
		var st counters.Status
		core.judge(napi, &st)
		return st.Reason
	}
	want := core.find("napi_poll").rung.loss + ": "
	if got := reason(); !strings.Contains(got, want) || strings.Contains(got, noBTF) || !strings.Contains(got, "CO-RE") {
		t.Errorf("reason %q, want %q and the loader's refusal", got, want)
	}
	core.types = nil
	if got := reason(); !strings.Contains(got, want+noBTF) || strings.Contains(got, "CO-RE") {
		t.Errorf("reason %q, want %q", got, want+noBTF)
	}
}

// TestEveryRung loads and attaches every program, also those that a better one
// makes needless here. What is left out the kernel provably lacks.
func TestEveryRung(t *testing.T) {
	needRoot(t)
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{options: o, budget: limits{packets: 300, jiffies: 2}}
	cache := btf.NewCache()
	for _, d := range objectTable() {
		spec, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.tune(spec); err != nil {
			t.Fatal(err)
		}
		created, err := createMaps(spec)
		if err != nil {
			t.Fatal(err)
		}
		l := loader{spec: spec, maps: created, cache: cache, modules: moduleTypes(d.modules, cache)}
		for _, h := range d.hooks {
			for _, r := range h.rungs {
				tryRung(t, l, r)
			}
		}
		if err := (&object{maps: created}).close(); err != nil {
			t.Error(err)
		}
	}
}

func tryRung(t *testing.T, l loader, r rung) {
	t.Helper()
	if why := lacks(t, r); why != "" {
		t.Logf("left out %s: %s", r.program, why)
		return
	}
	prog, err := l.load(r.program)
	if err != nil {
		t.Errorf("load %s: %v", r.program, err)
		return
	}
	p := &program{rung: r, prog: prog}
	if err := p.attach(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.detach(), prog.Close()); err != nil {
		t.Error(err)
	}
}

// lacks says what this kernel is without that a rung needs, "" if nothing.
func lacks(t *testing.T, r rung) string {
	t.Helper()
	if r.how == btfTracepoint || r.how == rawTracepoint {
		if hasTracepoint(t, r.target) {
			return ""
		}
		return "no tracepoint " + r.target
	}
	cache := btf.NewCache()
	kernel, err := cache.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	types := append(moduleTypes([]string{"virtio_net"}, cache), kernel)
	known := func(types *btf.Spec) bool {
		var found *btf.Func
		return types.TypeByName(r.target, &found) == nil
	}
	if !slices.ContainsFunc(types, known) {
		return "no function " + r.target
	}
	// A program that does nothing, on a function that every kernel has.
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "vfs_read", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return "no function may be traced: " + err.Error()
	}
	if err := nothing.Close(); err != nil {
		t.Error(err)
	}
	return ""
}
