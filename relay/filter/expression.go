package filter

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"
)

const (
	// maxDepth bounds how deep expressions are nested.
	maxDepth = 50
	// maxRegexp bounds the program that RE2 makes of a pattern, in instructions.
	maxRegexp = 1000
	// maxLoops bounds how deep exists, all, map and their like are nested.
	maxLoops = 2
	// Lists and texts of a record that decide whether an expression is refused
	// for what it may cost, and whether it has to be watched.
	usualSize, largestSize = 64, 1 << 20
)

// A SyntaxError is a mistake in an expression.
type SyntaxError struct {
	Param        string // "filter" or "rule"
	Line, Column int    // from 1, in characters; 0: of the whole
	Message      string // what is wrong
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Param, e.Message)
	}
	if e.Line == 1 {
		return fmt.Sprintf("%s: at character %d: %s", e.Param, e.Column, e.Message)
	}
	return fmt.Sprintf("%s: in line %d at character %d: %s", e.Param, e.Line, e.Column, e.Message)
}

// The variables that expressions see.
var variables = []struct {
	name string
	typ  *cel.Type
}{
	{"key", cel.DynType},
	{"headers", cel.MapType(cel.StringType, cel.DynType)},
	{"value", cel.DynType},
	{"timestamp", cel.TimestampType},
	{"topic", cel.StringType},
	{"partition", cel.IntType},
	{"offset", cel.IntType},
}

const (
	claimsName = "claims" // the variable that only rules see
	anyHeader  = "anyHeader"
)

// Functions of the strings extension whose result may be very much longer than
// what goes in.
var refused = []string{"replace", "join", "format", "strings.quote"}

// An environment is what expressions are read with.
type environment struct {
	client, rule *cel.Env
	inner        *cel.Env       // for what we have written ourselves
	plain        *parser.Parser // expands no macros: what is written is what is read
}

// newEnvironment is made once for all compilers: it takes about a millisecond.
var newEnvironment = sync.OnceValues(func() (*environment, error) {
	opts := []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EnableIdentifierEscapeSyntax(),
		cel.ParserRecursionLimit(maxDepth),
		cel.RegexProgramSizeLimit(maxRegexp),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(), cel.ValidateComprehensionNestingLimit(maxLoops)),
		ext.Strings(), ext.Math(), ext.Sets(),
		cel.Function(anyHeader, cel.Overload("any_header", []*cel.Type{cel.MapType(cel.StringType, cel.DynType), cel.StringType, cel.ListType(cel.DynType)}, cel.BoolType,
			cel.FunctionBinding(evalAnyHeader))),
	}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v.name, v.typ))
	}
	e := &environment{}
	var err error
	if e.client, err = cel.NewEnv(opts...); err != nil {
		return nil, err
	}
	if e.rule, err = e.client.Extend(cel.Variable(claimsName, cel.MapType(cel.StringType, cel.DynType))); err != nil {
		return nil, err
	}
	// The canonical form may need a parenthesis that the written one did without.
	if e.inner, err = e.client.Extend(cel.ParserRecursionLimit(4 * maxDepth)); err != nil {
		return nil, err
	}
	e.plain, err = parser.NewParser(parser.EnableIdentEscapeSyntax(true), parser.MaxRecursionDepth(4*maxDepth))
	return e, err
})

// evalAnyHeader reports whether a value of a header is in a list. No header of
// that name is no error, unlike with headers.name.
func evalAnyHeader(args ...ref.Val) ref.Val {
	headers, ok := args[0].(traits.Mapper)
	wanted, isList := args[2].(traits.Lister)
	if !ok || !isList {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	got, found := headers.Find(args[1])
	if !found {
		return types.False
	}
	if list, ok := got.(traits.Lister); ok {
		for it := list.Iterator(); it.HasNext() == types.True; {
			if wanted.Contains(it.Next()) == types.True {
				return types.True
			}
		}
		return types.False
	}
	return wanted.Contains(got)
}

// check makes sure that a text is an expression that says yes or no, and cheap
// enough.
func (c *Compiler) check(env *cel.Env, param, text string) *SyntaxError {
	switch {
	case len(text) > c.limits.Length:
		return c.beyond(param, "%d bytes long; %d are the most", len(text), c.limits.Length)
	case !utf8.ValidString(text):
		return &SyntaxError{Param: param, Message: "not UTF-8"}
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return syntaxError(param, issues.Errors()[0])
	}
	if err := checkCalls(param, parsed.NativeRep()); err != nil {
		return err
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return syntaxError(param, issues.Errors()[0])
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return &SyntaxError{Param: param, Line: 1, Column: 1, Message: fmt.Sprintf("a filter is true or false, and this is of type %s", cel.FormatCELType(t))}
	}
	estimate, err := env.EstimateCost(checked, sizes(usualSize))
	if err != nil || estimate.Max > c.limits.Cost {
		return c.beyond(param, "costs up to %d steps a record; %d are the most", estimate.Max, c.limits.Cost)
	}
	return nil
}

// syntaxError puts CEL's words into ours.
func syntaxError(param string, err *cel.Error) *SyntaxError {
	message := strings.TrimSuffix(strings.TrimPrefix(err.Message, "Syntax error: "), " (in container '')")
	if name, ok := strings.CutPrefix(message, "undeclared reference to "); ok {
		name, _, _ = strings.Cut(name, " (in container")
		message = "unknown name " + name + "; there are " + variableNames(param)
	}
	return errorAt(param, err.Location, message)
}

func errorAt(param string, at common.Location, message string) *SyntaxError {
	if at.Line() < 1 {
		return &SyntaxError{Param: param, Message: message}
	}
	return &SyntaxError{Param: param, Line: at.Line(), Column: at.Column() + 1, Message: message}
}

func variableNames(param string) string {
	var names []string
	for _, v := range variables {
		names = append(names, v.name)
	}
	if param == paramRule {
		names = append(names, claimsName)
	}
	return strings.Join(names, ", ")
}

// checkCalls refuses what CEL knows and filters do without.
func checkCalls(param string, a *ast.AST) (err *SyntaxError) {
	refuse := func(id int64, format string, args ...any) {
		if err == nil {
			err = errorAt(param, a.SourceInfo().GetStartLocation(id), fmt.Sprintf(format, args...))
		}
	}
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.CallKind:
			call := e.AsCall()
			name := call.FunctionName()
			if t := call.Target(); call.IsMemberFunction() && t.Kind() == ast.IdentKind && t.AsIdent() == "strings" {
				name = "strings." + name
			}
			args := call.Args()
			switch {
			case slices.Contains(refused, name):
				refuse(e.ID(), "%s is not there in filters", name)
			case name == "matches" && len(args) > 0 && args[len(args)-1].Kind() != ast.LiteralKind:
				refuse(args[len(args)-1].ID(), "the pattern of matches must be a literal")
			}
		case ast.StructKind:
			refuse(e.ID(), "there are no messages in filters")
		case ast.ComprehensionKind:
			loop := e.AsComprehension()
			if name := loop.IterVar(); isVariable(name) {
				refuse(e.ID(), "%s is a name of filters; give the element another", name)
			}
		}
	}))
	return err
}

func isVariable(name string) bool {
	for _, v := range variables {
		if v.name == name {
			return true
		}
	}
	return name == claimsName
}

// sizes estimates how large what comes from a record is.
type sizes uint64

func (s sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if len(node.Path()) == 0 && node.ComputedSize() != nil {
		return nil
	}
	size := cost.RangedSizeEstimate(0, uint64(s))
	return &size
}

func (sizes) EstimateCallCost(function, overloadID string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	return nil
}

// plan makes a program of the canonical text of an expression.
func (c *Compiler) plan(text string) (cel.Program, error) {
	checked, issues := c.env.inner.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	// No more is optimised: the sets that CEL makes of lists panic over bytes, and
	// compare large numbers otherwise than == does.
	opts := []cel.ProgramOption{cel.OptimizeRegex(interpreter.MatchesRegexOptimization)}
	// Keeping count of the cost takes time. What cannot become too expensive
	// whatever the record does without.
	if estimate, err := c.env.inner.EstimateCost(checked, sizes(largestSize)); err != nil || estimate.Max > c.limits.Cost {
		opts = append(opts, cel.CostLimit(c.limits.Cost))
	}
	return c.env.inner.Program(checked, opts...)
}
