#include "text/jinja_eval.h"
#include "text/jinja_lex.h"

#include <string.h>

/* names */

struct scope *scope_push(struct run *run)
{
    struct scope *scope = run_alloc(run, 1, sizeof *scope);

    if (scope) {
        scope->parent = run->scope;
        run->scope = scope;
    }
    return scope;
}

void scope_pop(struct run *run)
{
    run->scope = run->scope->parent;
}

static struct binding *find_binding(const struct scope *scope, struct str name)
{
    for (struct binding *binding = scope->first; binding; binding = binding->next)
        if (str_equal(binding->name, name))
            return binding;
    return NULL;
}

bool scope_set(struct run *run, struct str name, struct value value)
{
    struct binding *binding = find_binding(run->scope, name);

    if (!binding) {
        if (!(binding = run_alloc(run, 1, sizeof *binding)))
            return false;
        binding->name = name;
        binding->next = run->scope->first;
        run->scope->first = binding;
    }
    binding->value = value;
    return true;
}

bool scope_get(struct run *run, struct str name, struct value *value)
{
    const struct builtin *global;
    struct function *function;

    for (const struct scope *scope = run->scope; scope; scope = scope->parent) {
        const struct binding *binding = find_binding(scope, name);
        if (binding) {
            *value = binding->value;
            return true;
        }
    }
    *value = value_undefined(UNDEFINED_NAME, VALUE_ABSENT, name);
    if (!(global = builtin_find(&jinja_globals, name)))
        return true;
    if (!(function = run_alloc(run, 1, sizeof *function)))
        return false;
    function->builtin = global;
    *value = (struct value){.type = VALUE_FUNCTION, .function = function};
    return true;
}

/* arguments */

static bool push_argument(struct run *run, struct arguments *arguments, size_t *cap, struct str name,
                          struct value value)
{
    if (arguments->count == *cap) {
        struct argument *more;
        *cap = *cap ? *cap * 2 : 4;
        if (!(more = run_alloc(run, *cap, sizeof *more)))
            return false;
        if (arguments->count)
            memcpy(more, arguments->at, arguments->count * sizeof *more);
        arguments->at = more;
    }
    arguments->at[arguments->count++] = (struct argument){name, value};
    arguments->positional_count += name.at == NULL;
    return run_charge(run, 1);
}

static bool spread_list(struct run *run, struct arguments *arguments, size_t *cap, struct value value)
{
    struct list *items;

    if (!value_iterate(run, value, &items))
        return false;
    for (size_t i = 0; i < items->count; i++)
        if (!push_argument(run, arguments, cap, STR_NONE, items->items[i]))
            return false;
    return true;
}

static bool spread_dict(struct run *run, struct arguments *arguments, size_t *cap, struct value value)
{
    if (value.type != VALUE_DICT)
        return run_fail(run, "argument after ** must be a mapping, not %s", value_type_name(value));
    for (size_t i = 0; i < value.dict->count; i++) {
        if (value.dict->pairs[i].key.type != VALUE_STRING)
            return run_fail(run, "keywords must be strings");
        if (!push_argument(run, arguments, cap, value.dict->pairs[i].key.text, value.dict->pairs[i].value))
            return false;
    }
    return true;
}

static bool eval_arguments(struct run *run, const struct node *items, struct arguments *arguments)
{
    size_t cap = 0;

    *arguments = (struct arguments){0};
    for (const struct node *item = items; item; item = item->next) {
        bool is_wrapped = item->kind == NODE_KEYWORD || item->kind == NODE_SPREAD || item->kind == NODE_SPREAD_DICT;
        struct value value;
        bool ok = eval(run, is_wrapped ? item->left : item, &value);
        if (ok && item->kind == NODE_SPREAD)
            ok = spread_list(run, arguments, &cap, value);
        else if (ok && item->kind == NODE_SPREAD_DICT)
            ok = spread_dict(run, arguments, &cap, value);
        else if (ok)
            ok = push_argument(run, arguments, &cap, item->kind == NODE_KEYWORD ? item->name : STR_NONE, value);
        if (!ok)
            return false;
    }
    return true;
}

/* literals */

static size_t count_items(const struct node *items)
{
    size_t count = 0;

    for (; items; items = items->next)
        count++;
    return count;
}

static bool eval_list(struct run *run, const struct node *node, struct value *result)
{
    struct list *list = list_new(run, node->kind == NODE_LIST ? LIST_LIST : LIST_TUPLE, count_items(node->items));
    size_t count = 0;

    if (!list)
        return false;
    for (const struct node *item = node->items; item; item = item->next)
        if (!eval(run, item, &list->items[count++]))
            return false;
    *result = value_list(list);
    return true;
}

static bool eval_dict(struct run *run, const struct node *node, struct value *result)
{
    struct dict *dict = dict_new(run, count_items(node->items) / 2);

    if (!dict)
        return false;
    for (const struct node *item = node->items; item; item = item->next->next) {
        struct value key, value;
        if (!eval(run, item, &key) || !eval(run, item->next, &value) || !dict_set(run, dict, key, value))
            return false;
    }
    *result = value_dict(dict);
    return true;
}

/* operators */

static bool eval_binary(struct run *run, const struct node *node, struct value *result)
{
    struct value left, right;

    if (!eval(run, node->left, &left) || !eval(run, node->right, &right))
        return false;
    run->line = node->line;
    return value_binary(run, node->op, left, right, result);
}

static bool eval_unary(struct run *run, const struct node *node, struct value *result)
{
    struct value value;

    if (!eval(run, node->left, &value))
        return false;
    if (node->op == '-')
        return value_negate(run, value, result);
    return value_negate(run, value, result) && value_negate(run, *result, result);
}

static bool compare(struct run *run, uint16_t op, struct value a, struct value b, bool *holds)
{
    char sign[3] = {(char)op, (char)(op >> 8), 0};
    int order;

    if (op == OPERATOR_IN || op == OPERATOR_NOT_IN) {
        if (!value_contains(run, b, a, holds))
            return false;
        *holds ^= op == OPERATOR_NOT_IN;
        return true;
    }
    if (sign[1] == '=' && (sign[0] == '=' || sign[0] == '!')) {
        if (!value_equal(run, a, b, holds))
            return false;
        *holds ^= sign[0] == '!';
        return true;
    }
    if (!value_compare(run, a, b, sign, &order))
        return false;
    *holds = order != ORDER_NONE && ((sign[1] && order == 0) || (sign[0] == '<' ? order < 0 : order > 0));
    return true;
}

/* a < b < c: each middle value is evaluated once, and nothing behind the first that fails. */
static bool eval_compare(struct run *run, const struct node *node, struct value *result)
{
    struct value left, right;
    bool holds = true;

    if (!eval(run, node->left, &left))
        return false;
    for (const struct node *operand = node->items; operand && holds; operand = operand->next) {
        if (!eval(run, operand->left, &right))
            return false;
        run->line = node->line;
        if (!compare(run, operand->op, left, right, &holds))
            return false;
        left = right;
    }
    *result = value_bool(holds);
    return true;
}

static bool eval_concat(struct run *run, const struct node *node, struct value *result)
{
    struct builder out = {0};

    for (const struct node *item = node->items; item; item = item->next) {
        struct value value;
        if (!eval(run, item, &value) || !value_print(run, &out, value))
            return false;
    }
    *result = value_string(builder_view(&out));
    return true;
}

static bool eval_logic(struct run *run, const struct node *node, struct value *result)
{
    if (!eval(run, node->left, result))
        return false;
    if (node->kind == NODE_NOT) {
        *result = value_bool(!value_is_true(*result));
        return true;
    }
    return value_is_true(*result) == (node->kind == NODE_OR) || eval(run, node->right, result);
}

static bool eval_condition(struct run *run, const struct node *node, struct value *result)
{
    struct value test;

    if (!eval(run, node->right, &test))
        return false;
    if (value_is_true(test))
        return eval(run, node->left, result);
    if (node->third)
        return eval(run, node->third, result);
    *result = value_undefined(UNDEFINED_NAME, VALUE_ABSENT, STR("a condition without else"));
    return true;
}

/* access and calls */

static bool eval_access(struct run *run, const struct node *node, struct value *result)
{
    struct value object, key, bounds[3] = {{0}};
    const struct node *parts[3];

    if (!eval(run, node->left, &object))
        return false;
    run->line = node->line;
    if (node->kind == NODE_ATTRIBUTE)
        return value_attribute(run, object, node->name, result);
    if (node->right->kind != NODE_SLICE)
        return eval(run, node->right, &key) && value_item(run, object, key, result);
    parts[0] = node->right->left;
    parts[1] = node->right->right;
    parts[2] = node->right->third;
    for (int i = 0; i < 3; i++)
        if (parts[i] && !eval(run, parts[i], &bounds[i]))
            return false;
    return value_slice(run, object, bounds, result);
}

/* Anything that can be called: macros, functions, methods. */
static bool call_value(struct run *run, struct value callee, const struct arguments *arguments, struct value *result)
{
    struct function *function = callee.function;

    switch ((enum value_type)callee.type) {
    case VALUE_FUNCTION:
        return builtin_call(run, function->builtin, function->receiver, arguments, result);
    case VALUE_MACRO:
        return exec_macro(run, callee.macro, arguments, result);
    case VALUE_UNDEFINED:
        return value_fail_undefined(run, callee);
    case VALUE_JOINER: /* empty at the first call, then its text */
        *result = callee.cycler->at++ ? callee.cycler->items->items[0] : value_string(STR(""));
        return true;
    default:
        return run_fail(run, "'%s' object is not callable", value_type_name(callee));
    }
}

static bool eval_call(struct run *run, const struct node *node, struct value *result)
{
    struct value callee;
    struct arguments arguments;

    if (!eval(run, node->left, &callee) || !eval_arguments(run, node->items, &arguments))
        return false;
    run->line = node->line;
    return call_value(run, callee, &arguments, result);
}

static bool apply(struct run *run, const struct node *node, struct value input, struct value *result)
{
    struct arguments arguments;

    if (!eval_arguments(run, node->items, &arguments))
        return false;
    run->line = node->line;
    if (!node->builtin)
        return run_fail(run, "there is no %s named '%.*s'", node->kind == NODE_FILTER ? "filter" : "test",
                        STR_ARG(node->name));
    return builtin_call(run, node->builtin, input, &arguments, result);
}

static bool eval_applied(struct run *run, const struct node *node, struct value *result)
{
    struct value input;

    return eval(run, node->left, &input) && apply(run, node, input, result);
}

bool eval_filters(struct run *run, const struct node *filter, struct value text, struct value *result)
{
    if (filter->left && !eval_filters(run, filter->left, text, &text))
        return false;
    return apply(run, filter, text, result);
}

bool eval(struct run *run, const struct node *node, struct value *result)
{
    run->line = node->line;
    if (!run_charge(run, 1))
        return false;
    switch ((enum node_kind)node->kind) {
    case NODE_CONSTANT:
        *result = node->constant;
        return true;
    case NODE_NAME:
        return scope_get(run, node->name, result);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_list(run, node, result);
    case NODE_DICT:
        return eval_dict(run, node, result);
    case NODE_ATTRIBUTE:
    case NODE_ITEM:
        return eval_access(run, node, result);
    case NODE_CALL:
        return eval_call(run, node, result);
    case NODE_FILTER:
    case NODE_TEST:
        return eval_applied(run, node, result);
    case NODE_UNARY:
        return eval_unary(run, node, result);
    case NODE_BINARY:
        return eval_binary(run, node, result);
    case NODE_COMPARE:
        return eval_compare(run, node, result);
    case NODE_CONCAT:
        return eval_concat(run, node, result);
    case NODE_AND:
    case NODE_OR:
    case NODE_NOT:
        return eval_logic(run, node, result);
    case NODE_CONDITION:
        return eval_condition(run, node, result);
    default:
        ASSERT(false);
    }
}
