/* Statements and macros. */
#include "text/jinja_eval.h"

#include <string.h>

static enum flow exec(struct run *run, const struct node *node);

enum flow exec_body(struct run *run, const struct node *body)
{
    enum flow flow = FLOW_NEXT;

    for (; body && flow == FLOW_NEXT; body = body->next)
        flow = exec(run, body);
    return flow;
}

/* Runs a body in a scope of its own with its output caught. */
static bool capture(struct run *run, const struct node *body, struct value *text)
{
    struct builder *outer = run->out, out = {0};
    enum flow flow;

    if (!scope_push(run))
        return false;
    run->out = &out;
    flow = exec_body(run, body);
    run->out = outer;
    scope_pop(run);
    *text = value_string(builder_view(&out));
    return flow != FLOW_ERROR;
}

static bool assign_name(struct run *run, const struct node *target, struct value value)
{
    struct value object;

    if (target->kind == NODE_NAME)
        return scope_set(run, target->name, value);
    if (!scope_get(run, target->name, &object))
        return false;
    if (object.type != VALUE_NAMESPACE)
        return run_fail(run, "cannot assign an attribute of '%.*s': it is no namespace", STR_ARG(target->name));
    return dict_set(run, object.dict, target->constant, value);
}

static bool assign(struct run *run, const struct node *target, struct value value)
{
    const struct node *name = target->items;
    struct list *items;
    size_t count = 0;

    if (target->kind != NODE_TUPLE)
        return assign_name(run, target, value);
    if (value.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, value);
    if (!value_iterate(run, value, &items))
        return false;
    for (const struct node *each = name; each; each = each->next)
        count++;
    if (count != items->count)
        return run_fail(run, "cannot unpack %zu values into %zu names", items->count, count);
    for (size_t i = 0; name; name = name->next)
        if (!assign_name(run, name, items->items[i++]))
            return false;
    return true;
}

static bool exec_output(struct run *run, const struct node *node)
{
    struct value value;

    return eval(run, node->left, &value) && value_print(run, run->out, value);
}

static enum flow exec_if(struct run *run, const struct node *node)
{
    for (const struct node *branch = node->items; branch; branch = branch->next) {
        struct value test = value_bool(true);
        if (branch->left && !eval(run, branch->left, &test))
            return FLOW_ERROR;
        if (value_is_true(test))
            return exec_body(run, branch->items);
    }
    return FLOW_NEXT;
}

/* The items that the loop's condition keeps; loop counts only these. */
static bool filter_items(struct run *run, const struct node *node, const struct list *items, struct list **kept)
{
    if (!(*kept = list_new(run, LIST_LIST, items->count)))
        return false;
    (*kept)->count = 0;
    for (size_t i = 0; i < items->count; i++) {
        struct value holds;
        bool ok = scope_push(run) != NULL;
        ok = ok && assign(run, node->left, items->items[i]) && eval(run, node->third, &holds);
        if (!ok)
            return false;
        scope_pop(run);
        if (value_is_true(holds))
            (*kept)->items[(*kept)->count++] = items->items[i];
    }
    return true;
}

static enum flow exec_turn(struct run *run, const struct node *node, struct loop *loop)
{
    enum flow flow = FLOW_ERROR;
    bool ok = scope_push(run) != NULL &&
              scope_set(run, STR("loop"), (struct value){.type = VALUE_LOOP, .loop = loop}) &&
              assign(run, node->left, loop->items->items[loop->index]);

    if (ok)
        flow = exec_body(run, node->items);
    if (ok)
        scope_pop(run);
    return flow;
}

static enum flow exec_for(struct run *run, const struct node *node)
{
    struct value iterable;
    struct list *items;
    struct loop *loop = run_alloc(run, 1, sizeof *loop);
    enum flow flow = FLOW_NEXT;

    if (!loop || !eval(run, node->right, &iterable) || !value_iterate(run, iterable, &items))
        return FLOW_ERROR;
    if (node->third && !filter_items(run, node, items, &items))
        return FLOW_ERROR;
    loop->items = items;
    for (; loop->index < items->count && flow != FLOW_BREAK; loop->index++) {
        if (!run_charge(run, 1) || (flow = exec_turn(run, node, loop)) == FLOW_ERROR)
            return FLOW_ERROR;
    }
    if (items->count == 0)
        return exec_body(run, node->otherwise);
    return FLOW_NEXT;
}

static bool exec_set(struct run *run, const struct node *node)
{
    struct value value;

    return eval(run, node->right, &value) && assign(run, node->left, value);
}

static bool exec_set_block(struct run *run, const struct node *node)
{
    struct value value;

    return capture(run, node->items, &value) && (!node->right || eval_filters(run, node->right, value, &value)) &&
           assign(run, node->left, value);
}

static bool exec_filter_block(struct run *run, const struct node *node)
{
    struct value value;

    return capture(run, node->items, &value) && eval_filters(run, node->right, value, &value) &&
           value_print(run, run->out, value);
}

/* Values are evaluated outside of the new scope. */
static enum flow exec_with(struct run *run, const struct node *node)
{
    struct scope *outer = run->scope, *inner;
    enum flow flow;

    if (!(inner = scope_push(run)))
        return FLOW_ERROR;
    for (const struct node *set = node->params; set; set = set->next) {
        struct value value;
        bool ok;
        run->scope = outer;
        ok = eval(run, set->right, &value);
        run->scope = inner;
        if (!ok || !assign(run, set->left, value))
            return FLOW_ERROR;
    }
    flow = exec_body(run, node->items);
    scope_pop(run);
    return flow;
}

static bool exec_macro_definition(struct run *run, const struct node *node)
{
    struct macro *macro = run_alloc(run, 1, sizeof *macro);

    if (!macro)
        return false;
    *macro = (struct macro){node, run->scope};
    return scope_set(run, node->name, (struct value){.type = VALUE_MACRO, .macro = macro});
}

/* As transformers counts them: a block starts where the rendering is when it ends, which differs from where its text
 * will stand only inside of macros and set blocks. */
static bool exec_generation(struct run *run, const struct node *node)
{
    struct value text;
    struct template_span *span;
    struct str unseen;

    if (!capture(run, node->items, &text))
        return false;
    if (run->span_count == run->span_cap) {
        size_t cap = run->span_cap ? run->span_cap * 2 : 8;
        struct template_span *more = run_alloc(run, cap, sizeof *more);
        if (!more)
            return false;
        if (run->span_count)
            memcpy(more, run->spans, run->span_count * sizeof *more);
        run->spans = more;
        run->span_cap = cap;
    }
    unseen = str_slice(builder_view(run->main), run->counted_bytes, run->main->len);
    run->counted_codepoints += utf8_length(unseen);
    run->counted_bytes = run->main->len;
    span = &run->spans[run->span_count++];
    *span = (struct template_span){run->main->len, run->main->len + text.text.len, run->counted_codepoints,
                                   run->counted_codepoints + utf8_length(text.text)};
    return value_print(run, run->out, text);
}

static enum flow exec(struct run *run, const struct node *node)
{
    bool ok;

    run->line = node->line;
    if (!run_charge(run, 1))
        return FLOW_ERROR;
    switch ((enum node_kind)node->kind) {
    case NODE_DATA:
        ok = builder_add(run, run->out, node->name);
        break;
    case NODE_OUTPUT:
        ok = exec_output(run, node);
        break;
    case NODE_IF:
        return exec_if(run, node);
    case NODE_FOR:
        return exec_for(run, node);
    case NODE_SET:
        ok = exec_set(run, node);
        break;
    case NODE_SET_BLOCK:
        ok = exec_set_block(run, node);
        break;
    case NODE_FILTER_BLOCK:
        ok = exec_filter_block(run, node);
        break;
    case NODE_WITH:
        return exec_with(run, node);
    case NODE_MACRO:
        ok = exec_macro_definition(run, node);
        break;
    case NODE_GENERATION:
        ok = exec_generation(run, node);
        break;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        ASSERT(false);
    }
    return ok ? FLOW_NEXT : FLOW_ERROR;
}

/* macros */

static const struct argument *named_argument(const struct arguments *arguments, struct str name)
{
    for (size_t i = arguments->positional_count; i < arguments->count; i++)
        if (str_equal(arguments->at[i].name, name))
            return &arguments->at[i];
    return NULL;
}

static bool has_param(const struct node *macro, struct str name)
{
    for (const struct node *param = macro->params; param; param = param->next)
        if (str_equal(param->name, name))
            return true;
    return false;
}

static bool bind_params(struct run *run, const struct node *macro, const struct arguments *arguments, size_t *used)
{
    for (const struct node *param = macro->params; param; param = param->next) {
        const struct argument *named = named_argument(arguments, param->name);
        struct value value = value_undefined(UNDEFINED_ARGUMENT, VALUE_ABSENT, param->name);
        if (*used < arguments->positional_count && named)
            return run_fail(run, "macro '%.*s' got two values for '%.*s'", STR_ARG(macro->name), STR_ARG(param->name));
        if (*used < arguments->positional_count)
            value = arguments->at[(*used)++].value;
        else if (named)
            value = named->value;
        else if (param->left && !eval(run, param->left, &value))
            return false;
        if (!scope_set(run, param->name, value))
            return false;
    }
    return true;
}

static bool bind_varargs(struct run *run, const struct node *macro, const struct arguments *arguments, size_t used)
{
    struct list *rest;

    if (!macro->takes_varargs)
        return used == arguments->positional_count ||
               run_fail(run, "macro '%.*s' takes not more than %zu argument(s)", STR_ARG(macro->name), used);
    if (!(rest = list_new(run, LIST_TUPLE, arguments->positional_count - used)))
        return false;
    for (size_t i = 0; i < rest->count; i++)
        rest->items[i] = arguments->at[used + i].value;
    return scope_set(run, STR("varargs"), value_list(rest));
}

static bool bind_kwargs(struct run *run, const struct node *macro, const struct arguments *arguments)
{
    struct dict *rest = dict_new(run, 0);

    if (!rest)
        return false;
    for (size_t i = arguments->positional_count; i < arguments->count; i++) {
        struct str name = arguments->at[i].name;
        if (has_param(macro, name))
            continue;
        if (!macro->takes_kwargs)
            return run_fail(run, "macro '%.*s' takes no keyword argument '%.*s'", STR_ARG(macro->name), STR_ARG(name));
        if (!dict_set(run, rest, value_string(name), arguments->at[i].value))
            return false;
    }
    return !macro->takes_kwargs || scope_set(run, STR("kwargs"), value_dict(rest));
}

bool exec_macro(struct run *run, const struct macro *macro, const struct arguments *arguments, struct value *result)
{
    struct scope *caller = run->scope;
    size_t used = 0;
    bool ok;

    if (run->call_depth >= run->limits.call_depth)
        return run_fail_limit(run, "macros call each other more than %u deep", run->limits.call_depth);
    run->call_depth++;
    run->scope = macro->scope;
    ok = scope_push(run) && bind_params(run, macro->node, arguments, &used) &&
         bind_varargs(run, macro->node, arguments, used) && bind_kwargs(run, macro->node, arguments) &&
         capture(run, macro->node->items, result);
    run->scope = caller;
    run->call_depth--;
    return ok;
}
