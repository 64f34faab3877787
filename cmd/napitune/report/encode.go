package report

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/goccy/go-yaml"
)

// JSON writes v as indented JSON with a final newline. Characters that matter
// to HTML are left as they are: the arrows and dashes in reasons are meant to
// be read.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// YAML writes the same document as JSON does, with the same names in the same
// order, as YAML: it goes through the JSON form so that the two cannot differ.
func YAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	out, err := yaml.JSONToYAML(text)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	return nil
}
