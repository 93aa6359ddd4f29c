// Renders conversations by Go's own text/template, from data in the form that Ollama gives to its templates.
//
// Reads one JSON object from standard input: the template, today's date, and conversations. Writes a JSON list with
// one {"prompt": …} or {"error": …} for each of them.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type arguments map[string]any

func (a arguments) String() string {
	b, _ := json.Marshal(a)
	return string(b)
}

type propertyType []string

func (t propertyType) String() string { return strings.Join(t, ", ") }

func (t *propertyType) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*t = propertyType{one}
	return nil
}

type call struct {
	Function struct {
		Name      string
		Arguments arguments
	}
}

type message struct {
	Role      string
	Content   string
	Thinking  string
	ToolCalls []call
}

type property struct {
	Type        propertyType
	Description string
	Enum        []any
}

type tool struct {
	Type     string
	Function struct {
		Name        string
		Description string
		Parameters  struct {
			Type       string
			Required   []string
			Properties map[string]property
		}
	}
}

type conversation struct {
	Messages []*message
	Tools    []tool
	Think    *bool
}

// collate merges neighbours of one role, tool results excepted, and gathers the system messages.
func collate(messages []*message) (string, []*message) {
	var system []string
	var merged []*message
	for _, m := range messages {
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(merged); n > 0 && merged[n-1].Role == m.Role && m.Role != "tool" {
			merged[n-1].Content += "\n\n" + m.Content
		} else {
			merged = append(merged, m)
		}
	}
	return strings.Join(system, "\n\n"), merged
}

func main() {
	var input struct {
		Template      string
		Today         string
		Conversations []conversation
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	functions := template.FuncMap{
		"json":        func(v any) string { b, _ := json.Marshal(v); return string(b) },
		"currentDate": func(...string) string { return input.Today },
	}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(input.Template)
	if err != nil {
		panic(err)
	}
	results := []map[string]string{}
	for _, c := range input.Conversations {
		system, messages := collate(c.Messages)
		var out bytes.Buffer
		err := parsed.Execute(&out, map[string]any{
			"System":     system,
			"Messages":   messages,
			"Tools":      c.Tools,
			"Response":   "",
			"Think":      c.Think != nil && *c.Think,
			"IsThinkSet": c.Think != nil,
		})
		if err != nil {
			results = append(results, map[string]string{"error": err.Error()})
		} else {
			results = append(results, map[string]string{"prompt": out.String()})
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(results); err != nil {
		panic(err)
	}
}
