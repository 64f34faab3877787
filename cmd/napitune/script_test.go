package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The scripts run the real command. Beside the commands of testscript they have
//
//	status N COMMAND…   runs COMMAND, which must end with N
//	answers COMMAND…    runs COMMAND, which must end with 0 or 2
//	schema NAME FILE    holds FILE against testdata/schema/NAME.schema.json
//
// and the captured hosts of the project in $HOSTS.
func TestScripts(t *testing.T) {
	top, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join(top, "scripts"),
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOSTS", filepath.Join(top, "hosts"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  status,
			"answers": answers,
			"schema": func(ts *testscript.TestScript, neg bool, args []string) {
				validate(ts, neg, args, filepath.Join(top, "schema"))
			},
		},
	})
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := runStatus(ts, args[1:]); got != want {
		ts.Fatalf("%s ended with %d, want %d", args[1], got, want)
	}
}

func answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: answers COMMAND…")
	}
	if got := runStatus(ts, args); got != exitDone && got != exitChanges {
		ts.Fatalf("%s ended with %d, want 0 or 2", args[0], got)
	}
}

func runStatus(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		ts.Fatalf("%s: %v", args[0], err)
		return -1
	}
}

func validate(ts *testscript.TestScript, neg bool, args []string, dir string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: schema NAME FILE")
	}
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(dir, args[0]+".schema.json"))
	ts.Check(err)
	file := ts.MkAbs(args[1])
	document, err := decodeFile(file)
	ts.Check(err)
	if err := schema.Validate(document); err != nil {
		ts.Fatalf("%s does not match the schema %s: %#v", args[1], args[0], err)
	}
}

func decodeFile(path string) (any, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return jsonschema.UnmarshalJSON(file)
}

// The demonstration in the README is what the command prints: every line of it
// but the command and the marks of omission, in this order.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, demo, found := strings.Cut(string(text), "```console\n$ bin/napitune ")
	demo, _, closed := strings.Cut(demo, "```")
	if !found || !closed {
		t.Fatal("the README has no demonstration")
	}
	lines := strings.Split(strings.TrimSpace(demo), "\n")
	args := strings.Fields(lines[0])
	for i, a := range args {
		if strings.HasPrefix(a, "testdata/") {
			args[i] = filepath.Join("..", "..", a)
		}
	}
	_, stdout, stderr := invoke(context.Background(), t, env{Open: openHost}, args...)
	rest := stdout
	for _, line := range lines[1:] {
		if line == "…" {
			continue
		}
		_, after, found := strings.Cut(rest, line+"\n")
		if !found {
			t.Fatalf("the README shows %q, which is not in:\n%s%s", line, stdout, stderr)
		}
		rest = after
	}
}
