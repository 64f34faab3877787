package owner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/detect/knob"
)

func machine(t testing.TB, files map[string]string) *host.Host {
	t.Helper()
	at := tree.New()
	for name, text := range files {
		if err := at.WriteFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return &host.Host{FS: at, Links: func() ([]host.Link, error) {
		return []host.Link{{Name: "lo", Index: 1}, {Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}}, nil
	}}
}

func running(comms ...string) []host.Process {
	var out []host.Process
	for i, comm := range comms {
		out = append(out, host.Process{PID: 100 + i, Comm: comm})
	}
	return out
}

// flat is one line per claim: owner, habit, device/kind, value, source.
func flat(owners []Owner) []string {
	var out []string
	for _, o := range owners {
		for _, c := range o.Claims {
			out = append(out, strings.Join([]string{o.Name, [...]string{"boot", "event", "always"}[o.Habit], c.Dev + "/" + c.Kind, c.Value, c.Source}, " "))
		}
	}
	return out
}

func TestDaemons(t *testing.T) {
	t.Parallel()
	got := Find(machine(t, nil), running("irqbalance", "sshd", "google_guest_ag"))
	want := []string{
		"irqbalance always /irq.affinity  it is running",
		"google-guest-agent event /irq.affinity  it is running",
		"google-guest-agent event /xps.cpus  it is running",
	}
	if diff := cmp.Diff(want, flat(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, d := range daemonRows() {
		if !host.Watched(d.comm) {
			t.Errorf("%s is not in the process list", d.comm)
		}
		for _, kind := range append(d.kinds, d.exceptions) {
			if k, ok := knob.Lookup(kind); kind != "" && !ok || kind == d.exceptions && ok && k.Except == nil {
				t.Errorf("%s: no such setting %q, or no exceptions", d.comm, kind)
			}
		}
	}
}

// Every word of every table names a setting that there is.
func TestTables(t *testing.T) {
	t.Parallel()
	check := func(kind string) {
		t.Helper()
		if _, ok := knob.Lookup(kind); !ok {
			t.Errorf("there is no setting %q", kind)
		}
	}
	for _, kind := range linkKinds {
		check(kind)
	}
	for _, kind := range sysfsKinds {
		check(kind)
	}
	for word := range featureWords {
		check(ethtoolKind("feature", word))
	}
	for word := range coalesceWords {
		check(ethtoolKind("coalesce", word))
	}
	for word := range channelWords {
		check(ethtoolKind("channels", word))
	}
	for word := range directions {
		check(ethtoolKind("ring", word))
	}
}

func TestTuned(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"etc/tuned/active_profile":              "base mine\n",
		"usr/lib/tuned/base/tuned.conf":         "[main]\ninclude=base\n[sysctl]\nnet.core.netdev_budget = 300\nvm.swappiness=10\n",
		"usr/lib/tuned/throughput/tuned.conf":   "[sysctl]\nnet.core.netdev_budget=>600\nnet.core.netdev_max_backlog=${n}\n",
		"etc/tuned/mine/tuned.conf":             "[main]\ninclude=throughput\n[nic]\ntype=net\ndevices=eth*,!eth1\nring=rx 4096 tx 512\nfeatures=gro on, lro off tso on\nchannels=combined 4\ncoalesce=adaptive-rx off rx-usecs\n",
		"usr/lib/tuned/mine/tuned.conf":         "[sysctl]\nnet.core.netdev_budget=1\n",
		"usr/lib/tuned/unused/tuned.conf":       "[sysctl]\nnet.core.dev_weight=1\n",
		"usr/lib/tuned/profiles/cpu/tuned.conf": "[scheduler]\nisolated_cores=2-3\n[sysfs]\n/sys/class/net/*/queues/rx-*/rps_cpus=f\n/sys/class/net/eth1/gro_flush_timeout=20000\n/sys/block/sda/x=1\n[irq]\naffinity=0\n",
	}
	want := []string{
		"tuned event eth0/channels.combined 4 /etc/tuned/mine/tuned.conf",
		"tuned event eth0/coalesce.adaptive-rx off /etc/tuned/mine/tuned.conf",
		"tuned event eth0/feature.rx-gro on /etc/tuned/mine/tuned.conf",
		"tuned event eth0/feature.rx-lro off /etc/tuned/mine/tuned.conf",
		"tuned event eth0/ring.rx 4096 /etc/tuned/mine/tuned.conf",
		"tuned event eth0/ring.tx 512 /etc/tuned/mine/tuned.conf",
		"tuned event /net.core.netdev_budget >600 /usr/lib/tuned/throughput/tuned.conf",
		"tuned event /net.core.netdev_max_backlog  /usr/lib/tuned/throughput/tuned.conf",
	}
	got := flat(Find(machine(t, files), running("tuned")))
	if diff := cmp.Diff(want, got[:min(len(want), len(got))]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if o := Find(machine(t, files), running("tuned")); len(o) != 1 || len(o[0].Claims) > 8+maxIncludes {
		t.Errorf("a loop of includes gives %d owners", len(o))
	}
	if got := Find(machine(t, files), nil); len(got) != 0 {
		t.Errorf("not running, it owns %v", flat(got))
	}
	files["etc/tuned/active_profile"] = "cpu"
	want = []string{
		"tuned event /irq.affinity  /usr/lib/tuned/profiles/cpu/tuned.conf",
		"tuned event /rps.cpus f /usr/lib/tuned/profiles/cpu/tuned.conf",
		"tuned event eth1/gro_flush_timeout 20000 /usr/lib/tuned/profiles/cpu/tuned.conf",
		"tuned event /irq.affinity  /usr/lib/tuned/profiles/cpu/tuned.conf",
	}
	if diff := cmp.Diff(want, flat(Find(machine(t, files), running("tuned")))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	files["etc/tuned/active_profile"] = "../../etc"
	if got := Find(machine(t, files), running("tuned")); len(got) != 0 {
		t.Errorf("a profile outside: %v", flat(got))
	}
}

func TestNetworkManager(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"etc/NetworkManager/system-connections/wired.nmconnection": "[connection]\nid=Wired 1\nuuid=u-1\n[ethtool]\nring-rx=4096\nfeature-gro=false\ncoalesce-rx-usecs=5\nfeature-tso=true\npause-rx=true\n[802-1x]\npassword=secret\n",
		"run/NetworkManager/devices/2":                             "[device]\nmanaged=true\nconnection-uuid=u-1\n",
		"etc/NetworkManager/system-connections/named.nmconnection": "[connection]\nid=named\nuuid=u-2\ninterface-name=eth1\n[ethtool]\nchannels-combined=2\n",
		"etc/NetworkManager/system-connections/other.nmconnection": "[connection]\nid=other\nuuid=u-3\n[ethtool]\nring-rx=1\n",
		"run/NetworkManager/devices/1":                             "[device]\nmanaged=false\n",
	}
	got := Find(machine(t, files), running("NetworkManager"))
	const dir = "/etc/NetworkManager/system-connections/"
	want := []string{
		"NetworkManager event eth1/channels.combined 2 " + dir + "named.nmconnection",
		"NetworkManager event eth0/ring.rx 4096 " + dir + "wired.nmconnection",
		"NetworkManager event eth0/feature.rx-gro false " + dir + "wired.nmconnection",
		"NetworkManager event eth0/coalesce.rx-usecs 5 " + dir + "wired.nmconnection",
	}
	if diff := cmp.Diff(want, flat(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if want := `nmcli connection modify "Wired 1" ethtool.coalesce-rx-usecs "" ethtool.feature-gro "" ethtool.ring-rx ""`; got[1].Remedy != want {
		t.Errorf("remedy %s", got[1].Remedy)
	}
	if c, ok := got[1].Fights(knob.Device("eth0", "feature.rx-gro"), "off"); ok {
		t.Errorf("it wants the same: %+v", c)
	}
	if _, ok := got[1].Fights(knob.Device("eth0", "ring.rx"), "1024"); !ok {
		t.Error("it wants something else")
	}
	if strings.Contains(strings.Join(flat(got), ""), "secret") {
		t.Error("a secret got out")
	}
}

func TestLinkAndSysctlFiles(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"run/udev/data/n2":                                "I:1\nE:ID_NET_DRIVER=ice\nE:ID_NET_LINK_FILE=/etc/systemd/network/10-nic.link\n",
		"run/udev/data/n3":                                "E:ID_NET_LINK_FILE=/usr/lib/systemd/network/99-default.link\n",
		"etc/systemd/network/10-nic.link":                 "[Match]\nDriver=ice\n[Link]\nRxBufferSize=max\nCombinedChannels=8\nName=x\nIRQAffinityPolicy=spread\n",
		"usr/lib/systemd/network/10-nic.link.d/more.conf": "[Link]\nRxCoalesceSec=20us\n",
		"usr/lib/systemd/network/99-default.link":         "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep kernel\n",
		"usr/lib/sysctl.d/50-default.conf":                "net.core.netdev_budget = 300\nnet/core/dev_weight=64\n# net.core.netdev_max_backlog=1\nkernel.x=1\n",
		"etc/sysctl.d/60-site.conf":                       "-net.core.netdev_budget=600\n",
		"etc/sysctl.d/50-hidden.conf":                     "",
		"usr/lib/sysctl.d/50-hidden.conf":                 "net.core.gro_normal_batch=1\n",
		"run/systemd/system/x":                            "",
		"etc/sysctl.conf":                                 "net.core.dev_weight=1\n",
	}
	want := []string{
		"systemd-udevd boot eth0/ring.rx RxBufferSize=max /etc/systemd/network/10-nic.link",
		"systemd-udevd boot eth0/channels.combined 8 /etc/systemd/network/10-nic.link",
		"systemd-udevd boot eth0/irq.affinity IRQAffinityPolicy=spread /etc/systemd/network/10-nic.link",
		"systemd-udevd boot eth0/coalesce.rx-usecs 20 /usr/lib/systemd/network/10-nic.link.d/more.conf",
		"sysctl.d boot /net.core.dev_weight 64 /usr/lib/sysctl.d/50-default.conf",
		"sysctl.d boot /net.core.netdev_budget 600 /etc/sysctl.d/60-site.conf",
	}
	got := Find(machine(t, files), nil)
	if diff := cmp.Diff(want, flat(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c, ok := got[len(got)-1].Fights(knob.Global("net.core.netdev_budget"), "600"); ok {
		t.Errorf("it wants the same: %+v", c)
	}
	delete(files, "run/systemd/system/x")
	all := flat(Find(machine(t, files), nil))
	if at := "sysctl.d boot /net.core.dev_weight 1 /etc/sysctl.conf"; all[4] != at {
		t.Errorf("without systemd: %v", all)
	}
}

// Whatever files hold, claims name settings that there are.
func FuzzFiles(f *testing.F) {
	for _, seed := range []string{
		"", "[", "[x]\n=\n", "[main]\ninclude=a;a,a\n[net]\nring=rx\n", "[connection]\nuuid=u\ninterface-name=eth0\n[ethtool]\nring-rx=\n",
		"[Link]\nRxBufferSize=\x00\n", "[Link]\nRxCoalesceSec=us\nGenericReceiveOffload=1\n", "net.core.netdev_budget=", "-=\n/=1\n=", "[net]\ndevices=![,eth0\nfeatures=gro:on\n", "E:ID_NET_LINK_FILE=/../../x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h := machine(t, map[string]string{
			"etc/tuned/active_profile": "a " + text, "etc/tuned/a/tuned.conf": text,
			"etc/NetworkManager/system-connections/a.nmconnection": text, "run/NetworkManager/devices/2": text,
			"run/udev/data/n2": text, "run/udev/data/n3": "E:ID_NET_LINK_FILE=/etc/a.link", "etc/a.link": text,
			"etc/sysctl.d/a.conf": text,
		})
		for _, o := range Find(h, running("tuned", "NetworkManager")) {
			for _, c := range o.Claims {
				if _, ok := knob.Lookup(c.Kind); !ok {
					t.Fatalf("%q claims %+v", text, c)
				}
			}
		}
	})
}

// A .link file that says what a plan wants is nobody's adversary.
func TestLinkValue(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"RxBufferSize=128":               "128",
		"RxBufferSize=max":               "RxBufferSize=max",
		"CombinedChannels=08":            "8",
		"GenericReceiveOffload=yes":      "on",
		"LargeReceiveOffload=0":          "off",
		"GenericReceiveOffload=2":        "GenericReceiveOffload=2",
		"RxCoalesceSec=20us":             "20",
		"RxCoalesceSec=1":                "RxCoalesceSec=1",
		"TxCoalesceSec=1ms":              "TxCoalesceSec=1ms",
		"IRQAffinityPolicy=spread":       "IRQAffinityPolicy=spread",
		"ReceivePacketSteeringCPUMask=3": "ReceivePacketSteeringCPUMask=3",
	} {
		key, value, _ := strings.Cut(option, "=")
		if got := linkValue(key, value); got != want {
			t.Errorf("%s is taken for %q, want %q", option, got, want)
		}
	}
	o := Owner{Claims: parseLink("[Link]\nRxBufferSize=128\nGenericReceiveOffload=no\n", "eth0", "/x")}
	for _, test := range []struct {
		ref    knob.Ref
		want   string
		fights bool
	}{
		{knob.Device("eth0", "ring.rx"), "128", false},
		{knob.Device("eth0", "ring.rx"), "256", true},
		{knob.Device("eth0", "feature.rx-gro"), "off", false},
		{knob.Device("eth0", "feature.rx-gro"), "on", true},
	} {
		if _, fights := o.Fights(test.ref, test.want); fights != test.fights {
			t.Errorf("%s at %s: fights %v", test.ref, test.want, fights)
		}
	}
}
