package rules_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// hostsDir is where the captured hosts are; they stay outside the project
// because their licences differ.
func hostsDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("NAPITUNE_HOSTS is not set: CI must run the captured hosts")
		}
		t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to judge")
	}
	return dir
}

// judge runs the whole chain on one captured host.
func judge(t testing.TB, path string) (*detect.Observation, []plan.Finding, plan.Plan) {
	t.Helper()
	capture, err := archive.Open(path)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	var snaps []*detect.Snapshot
	for i, h := range capture.Samples {
		s, err := detect.Collect(h)
		if err != nil {
			t.Fatalf("collect sample %d: %v", i, err)
		}
		snaps = append(snaps, s)
	}
	obs := detect.Between(snaps...)
	findings := rules.Evaluate(obs, profiles.Balanced())
	return obs, findings, plan.Build(findings, plan.Input{States: obs.Last.Knobs, View: obs.Last.View()})
}

// expectation is what a kernel-networking expert says of one captured host.
type expectation struct {
	// find lists findings that must be there; wants kinds of settings that
	// the advice must ask for, changed or blocked for want of data.
	find, wants []string
	// note lists findings that must be there but only as notes.
	note []string
	// silent: no finding above a note and no change.
	silent bool
	// forbid lists kinds of settings that must not be asked for.
	forbid []string
	// touches limits the settings that may be asked for to those with one of these prefixes.
	touches []string
	// most is how many settings may be asked for; 0 = any number.
	most int
	// low: totals since boot are all there is. Every finding says that its evidence is
	// weak, and one asks for a second sample.
	low bool
	// unset lists kinds of settings that were not recorded: their state must be
	// unknown, never off, and nothing may be asked of them.
	unset []string
	// says are words that some finding must have: who may own a setting, what the
	// platform may refuse, what is not known.
	says []string
}

var always = []string{"net.core.netdev_budget", "net.core.netdev_budget_usecs"}

var expectations = map[string]expectation{
	"netutils-linux/igb.E5606":  {find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}, forbid: []string{"rps.cpus"}},
	"netutils-linux/mlx5.Q6700": {find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}},
	"netutils-linux/1xE31240.2x82576.L2.manual": {find: []string{"irq-stacked"}, wants: []string{"irq.affinity"},
		touches: []string{"eth2/", "eth3/"}, most: 4, forbid: []string{"ring.rx"}},
	"netutils-linux/2xL5520.1x82576.L2_mixed.manual":             {silent: true},
	"netutils-linux/1xE3-1271.I217_and_X710.L2_mixed.masterconf": {find: []string{"irq-smeared"}, wants: []string{"irq.affinity"}, forbid: []string{"ring.rx"}},
	"netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf":     {low: true, silent: true},
	"netutils-linux/1xi7-4770K.1x82541PI.L2.manual":              {low: true, unset: []string{"rps.cpus"}, find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}, touches: []string{"eth0/"}, most: 1, forbid: []string{"channels.combined"}},
	"netutils-linux/1xE5200.82571EB_and_AR8121.L2.manual":        {find: []string{"irq-smeared"}, wants: []string{"irq.affinity"}, forbid: []string{"rps.cpus", "ring.rx"}},
	"netutils-linux/1xi3.I211_I219V.L2_manual":                   {silent: true},
	"netutils-linux/kvm.l3.masterconf":                           {silent: true},
	"netutils-linux/series_singlequeue_8cpu":                     {silent: true},
	"netutils-linux/series_i7":                                   {says: []string{"whether both are threads of one core is unknown"}, note: []string{"softirq-imbalance"}, silent: true},
	"netutils-linux/series_dualcore":                             {silent: true},
	"openshift-nto/worker2":                                      {silent: true},
	"openshift-nto/sno":                                          {note: []string{"virtio-host-single-queue"}, silent: true},
	"pcp/hpe_1152cpu_i40e":                                       {silent: true},
	"pcp/laptop_8cpu_x86":                                        {silent: true},
	"pcp/s390x_16cpu":                                            {silent: true},
	"pcp/i686_1cpu":                                              {silent: true},
	"hotsos/openstack":                                           {low: true, unset: []string{"rps.cpus", "xps.cpus", "rps.flow_cnt"}, note: []string{"virtio-host-single-queue"}, silent: true},
	"hotsos/rabbitmq":                                            {low: true, unset: []string{"rps.cpus", "xps.cpus", "rps.flow_cnt"}, note: []string{"virtio-host-single-queue"}, silent: true},
	"hotsos/storage_ceph-mon":                                    {low: true, unset: []string{"rps.cpus", "xps.cpus", "rps.flow_cnt"}, note: []string{"virtio-host-single-queue"}, silent: true},
	"prometheus/node_exporter_4cpu":                              {low: true, says: []string{"sources that agree with each other"}, note: []string{"not-enough-evidence"}, silent: true},
	"web/ec2_c5.xlarge_ena":                                      {silent: true},
	"web/ec2_c4.xlarge_ixgbevf_xen":                              {silent: true},
	"web/virtio_8cpu_8q_irqbalance_churn":                        {low: true, says: []string{"if irqbalance or another balancer moves them"}, find: []string{"irq-smeared"}, wants: []string{"irq.affinity"}},
	"web/gregg_bpfbook_2cpu_ena":                                 {silent: true},
	"issues/coreos2135_vmxnet3_46cpu":                            {find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}},
	"issues/irqbalance122_32cpu_all_cpu0":                        {low: true, says: []string{"whether irqbalance"}, find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}},
	"issues/irqbalance81_xen_vif_4cpu":                           {find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}},
	"issues/orangepi46_8cpu_plic_cpu0":                           {low: true, says: []string{"this interrupt controller may refuse to move interrupts", "threaded NAPI or RPS"}, find: []string{"irq-stacked"}, wants: []string{"irq.affinity"}},
	"issues/ena316_4cpu_isolated":                                {silent: true},
	"issues/seastar3193_azure_l16s_2of16q":                       {low: true, says: []string{"or a tuning script owns these settings"}, find: []string{"queues-unused"}, wants: []string{"channels.combined"}},
	"sysstat/root1":                                              {silent: true},
	"sysstat/root2":                                              {silent: true},
	"sysstat/root7":                                              {silent: true},
	"web/softnet13_20cpu_hot11":                                  {note: []string{"softirq-imbalance"}, silent: true},
	"proc-snapshot/sep4020_arm_1cpu_9col":                        {silent: true},
	"proc-snapshot/kvm_1vcpu_virtio_pcimsix":                     {silent: true},
	"ethtool/ethq_i40e":                                          {note: []string{"rss-skew"}, silent: true},
	"ethtool/ethq_i40e-v2.3.2k":                                  {silent: true},
	"ethtool/ethq_ice":                                           {silent: true},
	"ethtool/ethq_ena":                                           {silent: true},
	"ethtool/ethq_bnx2x":                                         {silent: true},
	"ethtool/ethq_sfc":                                           {silent: true},
	"ethtool/ethq_virtio_net":                                    {silent: true},
	"ethtool/ethq_vmxnet3":                                       {silent: true},
	"ethtool/ethq_bnx2":                                          {silent: true},
	"ethtool/ethq_e1000e":                                        {silent: true},
	"ethtool/ethq_r8169":                                         {silent: true},
	"ethtool/ethq_tg3":                                           {silent: true},
	"ethtool/ethq_fsl_dpaa2_eth":                                 {silent: true},
	"ethtool/newrushbolt_bnxten_418_sfp_10gsr85":                 {silent: true},
	"ethtool/newrushbolt_bnxten418_sfp_10gwtf1":                  {silent: true},
	"ethtool/newrushbolt_i40e21_int_tp":                          {silent: true},
	"ethtool/newrushbolt_i40e21_int_broken":                      {silent: true},
	"ethtool/newrushbolt_i40e28_sfp_10gsr85":                     {silent: true},
	"ethtool/newrushbolt_ixgbe418_sfp_10gsr85":                   {silent: true},
	"ethtool/newrushbolt_igb56_int_tp":                           {silent: true},
	"ethtool/newrushbolt_tg3_418_int_tp":                         {silent: true},
	"ethtool/datadog_virtio_net_8q":                              {silent: true},
}

func TestCapturedHosts(t *testing.T) {
	dir := hostsDir(t)
	archives, err := filepath.Glob(filepath.Join(dir, "*", "*.tar.gz"))
	if err != nil || len(archives) < 100 {
		t.Fatalf("%d captured hosts below NAPITUNE_HOSTS, want the whole collection (%v)", len(archives), err)
	}
	seen := map[string]bool{}
	for _, path := range archives {
		rel, _ := filepath.Rel(dir, path)
		name := strings.TrimSuffix(filepath.ToSlash(rel), ".tar.gz")
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			obs, findings, p := judge(t, path)
			want, judged := expectations[name]
			if !judged {
				want = expectation{silent: true} // topology only: nothing may be proposed from it
			}
			check(t, want, findings, p, true)
			checkDoubt(t, want, obs, findings, p)
		})
	}
	for name := range expectations {
		if !seen[name] {
			t.Errorf("no captured host %s", name)
		}
	}
}

// asked lists the settings that a plan asks for, possible or not.
func asked(p plan.Plan) []string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, c.Ref.String())
	}
	for _, b := range p.Blocked {
		out = append(out, b.Ref.String())
	}
	return out
}

// check holds findings and plan against what is expected. Budgets are never
// right on the captured hosts, none of which has evidence for them.
func check(t *testing.T, want expectation, findings []plan.Finding, p plan.Plan, captured bool) {
	t.Helper()
	requests := map[string]string{} // ref → "change" or "blocked: why"
	for _, c := range p.Changes {
		requests[c.Ref.String()] = "change to " + c.After
	}
	for _, b := range p.Blocked {
		requests[b.Ref.String()] = "blocked: " + b.Reason
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf(format, args...)
		for _, f := range findings {
			t.Logf("  %s %s [%s]: %s", f.Severity, f.ID, f.Subject, f.Claim)
		}
		for _, ref := range slices.Sorted(keys(requests)) {
			t.Logf("  %s: %s", ref, requests[ref])
		}
	}
	for _, id := range want.find {
		if !has(findings, id, func(f plan.Finding) bool { return f.Severity > plan.Note }) {
			fail("finding %s is missing", id)
		}
	}
	for _, id := range want.note {
		if !has(findings, id, func(f plan.Finding) bool { return f.Severity == plan.Note }) {
			fail("note %s is missing", id)
		}
	}
	if want.silent {
		for _, f := range findings {
			if f.Severity > plan.Note {
				fail("must stay silent but says %s %s", f.Severity, f.ID)
				break
			}
		}
		if len(requests) > 0 {
			fail("must stay silent but asks for %d settings", len(requests))
		}
	}
	for _, kind := range want.wants {
		if !slices.ContainsFunc(slices.Collect(keys(requests)), func(ref string) bool { return strings.HasSuffix(ref, kind) }) {
			fail("no advice on %s", kind)
		}
	}
	forbidden := want.forbid
	if captured {
		forbidden = append(forbidden, always...)
	}
	for ref := range requests {
		for _, kind := range forbidden {
			if strings.HasSuffix(ref, kind) {
				fail("forbidden advice on %s", ref)
			}
		}
		if len(want.touches) > 0 && !slices.ContainsFunc(want.touches, func(prefix string) bool { return strings.HasPrefix(ref, prefix) }) {
			fail("touches %s, which must be left alone", ref)
		}
	}
	if want.most > 0 && len(requests) > want.most {
		fail("asks for %d settings, at most %d are needed", len(requests), want.most)
	}
	if len(p.Conflicts) > 0 {
		fail("conflicting wants: %v", p.Conflicts)
	}
}

// checkDoubt holds what is said of evidence that is weak or missing.
func checkDoubt(t *testing.T, want expectation, obs *detect.Observation, findings []plan.Finding, p plan.Plan) {
	t.Helper()
	asks := false
	var text strings.Builder
	for _, f := range findings {
		fmt.Fprintln(&text, f.Claim, f.Operator, f.Missing)
		asks = asks || slices.ContainsFunc(f.Missing, func(m string) bool { return strings.HasPrefix(m, "a second sample") })
		if want.low && len(f.Evidence) > 0 && !f.Low {
			t.Errorf("%s on %s does not say that its evidence is weak", f.ID, f.Subject)
		}
	}
	if want.low && !asks {
		t.Error("no finding asks for a second sample")
	}
	for _, words := range want.says {
		if !strings.Contains(text.String(), words) {
			t.Errorf("nothing says %q:\n%s", words, text.String())
		}
	}
	for _, kind := range want.unset {
		seen := 0
		for ref, state := range obs.Last.Knobs {
			if ref.Kind != kind {
				continue
			}
			seen++
			if state.Has() || state.Status == knob.Unsupported && kind != "xps.cpus" { // XPS is never there with a single queue
				t.Errorf("%s was not recorded and is %v %q", ref, state.Status, state.Value)
			}
		}
		if seen == 0 {
			t.Errorf("%s is not even listed as unknown", kind)
		}
		for _, ref := range asked(p) {
			if strings.HasSuffix(ref, kind) {
				t.Errorf("asks for %s, of which nothing is known", ref)
			}
		}
	}
}

func has(findings []plan.Finding, id string, match func(plan.Finding) bool) bool {
	return slices.ContainsFunc(findings, func(f plan.Finding) bool { return f.ID == id && match(f) })
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
