package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/profiles/boot"
)

const fleetDir = "../../profiles/fleet"

func fleetFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(fleetDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// runs holds a command line of a fleet tool against the options that there are.
func runs(t *testing.T, where string, argv []string) {
	t.Helper()
	if len(argv) < 2 || argv[0] != packagedProgram {
		t.Errorf("%s: %q does not run %s", where, argv, packagedProgram)
		return
	}
	if _, err := order(append([]string{"napitune"}, argv[1:]...), newApp(env{})); err != nil {
		t.Errorf("%s: %q: %v", where, argv, err)
	}
}

// The sample profile has no mistake, also as the manifest carries it.
func TestFleetProfile(t *testing.T) {
	if _, err := boot.Parse("fleet.yaml", fleetFile(t, "fleet.yaml")); err != nil {
		t.Error(err)
	}
}

// The manifest runs a verb that there is, with the profile where it is mounted,
// and has what the guard needs to write.
func TestDaemonSet(t *testing.T) {
	var config struct {
		Kind string
		Data map[string]string
	}
	var set struct {
		Kind string
		Spec struct {
			Selector struct {
				MatchLabels map[string]string `yaml:"matchLabels"`
			}
			Template struct {
				Metadata struct{ Labels map[string]string }
				Spec     struct {
					HostNetwork bool `yaml:"hostNetwork"`
					HostPID     bool `yaml:"hostPID"`
					Containers  []struct {
						Image           string
						Args            []string
						SecurityContext struct{ Privileged bool } `yaml:"securityContext"`
						ReadinessProbe  struct {
							Exec struct{ Command []string }
						} `yaml:"readinessProbe"`
						VolumeMounts []struct {
							Name      string
							MountPath string `yaml:"mountPath"`
						} `yaml:"volumeMounts"`
					}
				}
			}
		}
	}
	kinds := map[string]bool{}
	decoder := yaml.NewDecoder(bytes.NewReader(fleetFile(t, "kubernetes/napitune.yaml")))
	for {
		var raw map[string]any
		if err := decoder.Decode(&raw); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kind, _ := raw["kind"].(string)
		kinds[kind] = true
		text, err := yaml.Marshal(raw)
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case "ConfigMap":
			err = yaml.Unmarshal(text, &config)
		case "DaemonSet":
			err = yaml.Unmarshal(text, &set)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !kinds["Namespace"] || !kinds["ConfigMap"] || !kinds["DaemonSet"] {
		t.Fatalf("kinds: %v", kinds)
	}
	if diff := cmp.Diff(string(fleetFile(t, "fleet.yaml")), config.Data["profile.yaml"]); diff != "" {
		t.Errorf("the profile in the manifest is not fleet.yaml (-file +manifest)\n%s", diff)
	}
	pod := set.Spec.Template.Spec
	if diff := cmp.Diff(set.Spec.Selector.MatchLabels, set.Spec.Template.Metadata.Labels); diff != "" || !pod.HostNetwork || !pod.HostPID || len(pod.Containers) != 1 {
		t.Fatalf("pod: %+v %s", pod, diff)
	}
	guard := pod.Containers[0]
	runs(t, "the guard", append([]string{packagedProgram}, guard.Args...))
	runs(t, "the probe", guard.ReadinessProbe.Exec.Command)
	var mounts []string
	for _, m := range guard.VolumeMounts {
		mounts = append(mounts, m.MountPath)
	}
	// Below /run is the socket of irqbalance.
	for _, want := range []string{filepath.Dir(installedProfile), "/run", journalDir, filepath.Dir(historyFile)} {
		if !slices.Contains(mounts, want) {
			t.Errorf("%s is not mounted: %v", want, mounts)
		}
	}
	if !guard.SecurityContext.Privileged || guard.Image == "" || !slices.Contains(guard.Args, installedProfile) {
		t.Errorf("container: %+v", guard)
	}
	if !strings.Contains(string(fleetFile(t, "kubernetes/Containerfile")), " "+packagedProgram+"\n") {
		t.Error("the image has the program somewhere else")
	}
}

// The role runs verbs and options that there are.
func TestAnsibleRole(t *testing.T) {
	var tasks []map[string]any
	if err := yaml.Unmarshal(fleetFile(t, "ansible/roles/napitune/tasks/main.yml"), &tasks); err != nil {
		t.Fatal(err)
	}
	var defaults map[string]any
	if err := yaml.Unmarshal(fleetFile(t, "ansible/roles/napitune/defaults/main.yml"), &defaults); err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, task := range tasks {
		name, _ := task["name"].(string)
		if name == "" {
			t.Errorf("a task without a name: %v", task)
		}
		if copied, ok := task["ansible.builtin.copy"].(map[string]any); ok {
			check, _ := copied["validate"].(string)
			runs(t, name, strings.Fields(check))
		}
		command, ok := task["ansible.builtin.command"].(map[string]any)
		if !ok {
			continue
		}
		commands++
		if task["changed_when"] == nil {
			t.Errorf("%s: it would always count as a change", name)
		}
		switch argv := command["argv"].(type) {
		case []any:
			var words []string
			for _, word := range argv {
				words = append(words, word.(string))
			}
			runs(t, name, words)
		case string: // an expression: its words are quoted
			var words []string
			for i, word := range strings.Split(argv, "'") {
				if i%2 == 1 {
					words = append(words, word)
				}
			}
			runs(t, name, words)
		}
	}
	if commands != 3 {
		t.Errorf("%d commands", commands)
	}
	text := string(fleetFile(t, "ansible/roles/napitune/tasks/main.yml"))
	// dnf refuses what "make packages" builds, unless it is told.
	if unsigned, ok := defaults["napitune_rpm_unsigned"].(bool); !ok || unsigned || !strings.Contains(text, `disable_gpg_check: "{{ napitune_rpm_unsigned }}"`) {
		t.Error("an rpm without a signature is installed unasked, or cannot be")
	}
	// A guard sets at once what it is told of.
	stop, install := strings.Index(text, "state: stopped"), strings.Index(text, "'profile', 'install'")
	if stop < 0 || stop > install || !strings.Contains(text, "([] if napitune_now else ['--no-reload'])") {
		t.Error("without napitune_now, a guard that runs is told of the profile")
	}
	for _, task := range tasks {
		if handler, ok := task["notify"].(string); ok && !strings.Contains(string(fleetFile(t, "ansible/roles/napitune/handlers/main.yml")), "- name: "+handler+"\n") {
			t.Errorf("no handler is called %q", handler)
		}
	}
	for name := range defaults {
		if !strings.Contains(text, name) {
			t.Errorf("%s has a default and no use", name)
		}
	}
}

// What the role takes for a change is what the command prints.
func TestRoleKnowsChanges(t *testing.T) {
	file := filepath.Join(fleetDir, "fleet.yaml")
	root := t.TempDir()
	for i, want := range []bool{true, false} {
		_, stdout, _ := invoke(context.Background(), t, env{}, "profile", "install", file, "--root", root, "--no-units")
		if got := strings.HasPrefix(stdout, "wrote "); got != want {
			t.Errorf("run %d: %q", i, stdout)
		}
	}
}
