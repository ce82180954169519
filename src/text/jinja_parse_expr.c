#include "text/jinja_builtin.h"
#include "text/jinja_parse_int.h"

#include <string.h>

static struct node *parse_unary(struct parser *parser, bool with_filters);
static struct node *parse_without_condition(struct parser *parser);

static struct node *binary(struct parser *parser, enum node_kind kind, uint16_t op, uint32_t line, struct node *left,
                           struct node *right)
{
    struct node *node;

    if (!left || !right)
        return NULL;
    node = node_new(parser, kind, line);
    node->op = op;
    node->left = left;
    node->right = right;
    return node_seal(parser, node) ? node : NULL;
}

static struct node *constant(struct parser *parser, uint32_t line, struct value value)
{
    struct node *node = node_new(parser, NODE_CONSTANT, line);

    node->constant = value;
    return node;
}

static struct node *parse_name(struct parser *parser)
{
    struct jinja_token token = *parser->token++;
    struct node *node;

    if (str_is(token.text, "true") || str_is(token.text, "True"))
        return constant(parser, token.line, value_bool(true));
    if (str_is(token.text, "false") || str_is(token.text, "False"))
        return constant(parser, token.line, value_bool(false));
    if (str_is(token.text, "none") || str_is(token.text, "None"))
        return constant(parser, token.line, value_none());
    node = node_new(parser, NODE_NAME, token.line);
    node->name = token.text;
    if (parser->macro && str_is(token.text, "varargs"))
        parser->macro->takes_varargs = true;
    if (parser->macro && str_is(token.text, "kwargs"))
        parser->macro->takes_kwargs = true;
    return node;
}

/* Strings that stand side by side are one. */
static struct node *parse_string(struct parser *parser)
{
    uint32_t line = parser->token->line;
    struct str text = (parser->token++)->text;

    if (parser->token->kind == TOKEN_STRING) {
        size_t len = text.len;
        char *all;
        for (struct jinja_token *token = parser->token; token->kind == TOKEN_STRING; token++)
            len += token->text.len;
        all = arena_alloc(parser->arena, len + 1);
        memcpy(all, text.at, text.len);
        for (len = text.len; parser->token->kind == TOKEN_STRING; parser->token++) {
            memcpy(all + len, parser->token->text.at, parser->token->text.len);
            len += parser->token->text.len;
        }
        text = (struct str){all, len};
    }
    return constant(parser, line, value_string(text));
}

/* Items up to the closing bracket, which is consumed; a comma may end them. Dicts have key : value. */
static struct node *parse_items(struct parser *parser, enum node_kind kind, char close)
{
    struct node *node = node_new(parser, kind, (parser->token++)->line), *item;
    struct node_list list = {.end = &node->items};

    while (!token_is(parser, close)) {
        if (node->items && !token_expect(parser, ','))
            return NULL;
        if (token_is(parser, close))
            break;
        if (!(item = parse_expression(parser)))
            return NULL;
        node_list_add(&list, item);
        if (kind == NODE_DICT) {
            if (!token_expect(parser, ':') || !(item = parse_expression(parser)))
                return NULL;
            node_list_add(&list, item);
        }
    }
    parser->token++;
    return node_seal(parser, node) ? node : NULL;
}

static struct node *parse_primary(struct parser *parser)
{
    const struct jinja_token *token = parser->token;
    struct node *node = NULL;

    switch (token->kind) {
    case TOKEN_NAME:
        return parse_name(parser);
    case TOKEN_STRING:
        return parse_string(parser);
    case TOKEN_INTEGER:
        parser->token++;
        return constant(parser, token->line, value_int(token->integer));
    case TOKEN_FLOAT:
        parser->token++;
        return constant(parser, token->line, value_float(token->number));
    default:
        break;
    }
    if (token_is(parser, '['))
        return parse_items(parser, NODE_LIST, ']');
    if (token_is(parser, '{'))
        return parse_items(parser, NODE_DICT, '}');
    if (!token_skip(parser, '('))
        parse_fail(parser, "unexpected %s", token_describe(parser));
    else if ((node = parse_tuple(parser, true, true)) && !token_expect(parser, ')'))
        node = NULL;
    return node;
}

static bool at_tuple_end(const struct parser *parser)
{
    return parser->token->kind == TOKEN_VARIABLE_END || parser->token->kind == TOKEN_BLOCK_END || token_is(parser, ')');
}

struct node *parse_tuple(struct parser *parser, bool with_condition, bool empty_is_fine)
{
    struct node *tuple = node_new(parser, NODE_TUPLE, parser->token->line), *item;
    struct node_list list = {.end = &tuple->items};
    bool has_comma = false;

    while (!at_tuple_end(parser)) {
        if (!(item = with_condition ? parse_expression(parser) : parse_without_condition(parser)))
            return NULL;
        node_list_add(&list, item);
        if (!token_skip(parser, ','))
            break;
        has_comma = true;
    }
    if (tuple->items && !has_comma)
        return tuple->items;
    if (!tuple->items && !empty_is_fine) {
        parse_fail(parser, "an expression is missing before %s", token_describe(parser));
        return NULL;
    }
    return node_seal(parser, tuple) ? tuple : NULL;
}

/* One part of a slice, or NULL in *part when it is left out. */
static bool parse_slice_part(struct parser *parser, struct node **part)
{
    *part = NULL;
    if (token_is(parser, ':') || token_is(parser, ']'))
        return true;
    return (*part = parse_expression(parser)) != NULL;
}

static struct node *parse_subscript(struct parser *parser, struct node *object)
{
    uint32_t line = (parser->token++)->line;
    struct node *slice = node_new(parser, NODE_SLICE, line), *index;

    if (token_is(parser, ']')) {
        parse_fail(parser, "an index is missing");
        return NULL;
    }
    if (!parse_slice_part(parser, &slice->left))
        return NULL;
    index = slice->left;
    if (token_skip(parser, ':')) {
        if (!parse_slice_part(parser, &slice->right))
            return NULL;
        if (token_skip(parser, ':') && !parse_slice_part(parser, &slice->third))
            return NULL;
        if (!node_seal(parser, slice))
            return NULL;
        index = slice;
    }
    if (!token_expect(parser, ']'))
        return NULL;
    return binary(parser, NODE_ITEM, 0, line, object, index);
}

static struct node *parse_attribute(struct parser *parser, struct node *object)
{
    uint32_t line = (parser->token++)->line;
    struct node *node;

    if (parser->token->kind == TOKEN_INTEGER) {
        const struct jinja_token *token = parser->token++;
        return binary(parser, NODE_ITEM, 0, line, object, constant(parser, line, value_int(token->integer)));
    }
    node = node_new(parser, NODE_ATTRIBUTE, line);
    node->left = object;
    return token_expect_name(parser, &node->name) && node_seal(parser, node) ? node : NULL;
}

static struct node *parse_argument(struct parser *parser)
{
    struct node *node;
    uint32_t line = parser->token->line;

    if (token_skip(parser, '*')) {
        node = node_new(parser, NODE_SPREAD, line);
    } else if (parser->token->kind == TOKEN_OPERATOR && parser->token->op == OPERATOR2('*', '*')) {
        parser->token++;
        node = node_new(parser, NODE_SPREAD_DICT, line);
    } else if (parser->token->kind == TOKEN_NAME && parser->token[1].kind == TOKEN_OPERATOR &&
               parser->token[1].op == '=') {
        node = node_new(parser, NODE_KEYWORD, line);
        node->name = parser->token->text;
        parser->token += 2;
    } else {
        return parse_expression(parser);
    }
    node->left = parse_expression(parser);
    return node->left && node_seal(parser, node) ? node : NULL;
}

/* "( … )" into node->items. */
static bool parse_arguments(struct parser *parser, struct node *node)
{
    struct node_list list = {.end = &node->items};
    bool has_keyword = false;

    if (!token_expect(parser, '('))
        return false;
    while (!token_is(parser, ')')) {
        struct node *argument;
        if (node->items && !token_expect(parser, ','))
            return false;
        if (token_is(parser, ')'))
            break;
        if (!(argument = parse_argument(parser)))
            return false;
        if (has_keyword && argument->kind != NODE_KEYWORD && argument->kind != NODE_SPREAD_DICT)
            return parse_fail(parser, "a positional argument follows a keyword argument");
        has_keyword = argument->kind == NODE_KEYWORD || argument->kind == NODE_SPREAD_DICT;
        node_list_add(&list, argument);
    }
    parser->token++;
    return true;
}

static struct node *parse_call(struct parser *parser, struct node *callee)
{
    struct node *node = node_new(parser, NODE_CALL, parser->token->line);

    node->left = callee;
    return parse_arguments(parser, node) && node_seal(parser, node) ? node : NULL;
}

static struct node *parse_postfix(struct parser *parser, struct node *node)
{
    while (node) {
        if (token_is(parser, '.'))
            node = parse_attribute(parser, node);
        else if (token_is(parser, '['))
            node = parse_subscript(parser, node);
        else if (token_is(parser, '('))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

/* Jinja refuses unknown filters and tests when it compiles, except below an if: see parser.unknown. */
static void look_up(struct parser *parser, struct node *node, const struct builtin_table *table)
{
    node->builtin = builtin_find(table, node->name);
    if (!node->builtin && !parser->is_soft && !parser->unknown)
        parser->unknown = node;
}

struct node *parse_filters(struct parser *parser, struct node *input, bool starts_inline)
{
    struct node *node = input;

    while (starts_inline || token_skip(parser, '|')) {
        struct node *filter = node_new(parser, NODE_FILTER, parser->token->line);
        starts_inline = false;
        filter->left = node;
        if (!token_expect_name(parser, &filter->name))
            return NULL;
        look_up(parser, filter, &jinja_filters);
        if (token_is(parser, '(') && !parse_arguments(parser, filter))
            return NULL;
        if (!node_seal(parser, filter))
            return NULL;
        node = filter;
    }
    return node;
}

/* A test may take one argument without parentheses: "x is divisibleby 3". */
static bool at_bare_argument(const struct parser *parser)
{
    switch (parser->token->kind) {
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    case TOKEN_NAME:
        return !token_is_name(parser, "else") && !token_is_name(parser, "or") && !token_is_name(parser, "and");
    default:
        return token_is(parser, '[') || token_is(parser, '{');
    }
}

static struct node *parse_test(struct parser *parser, struct node *input)
{
    struct node *test = node_new(parser, NODE_TEST, (parser->token++)->line), *inverse;
    bool is_negated = token_skip_name(parser, "not");

    test->left = input;
    if (!token_expect_name(parser, &test->name))
        return NULL;
    look_up(parser, test, &jinja_tests);
    if (token_is(parser, '(')) {
        if (!parse_arguments(parser, test))
            return NULL;
    } else if (token_is_name(parser, "is")) {
        parse_fail(parser, "tests cannot be chained with 'is'");
        return NULL;
    } else if (at_bare_argument(parser)) {
        if (!(test->items = parse_postfix(parser, parse_primary(parser))))
            return NULL;
    }
    if (!node_seal(parser, test))
        return NULL;
    if (!is_negated)
        return test;
    inverse = node_new(parser, NODE_NOT, test->line);
    inverse->left = test;
    return node_seal(parser, inverse) ? inverse : NULL;
}

static struct node *parse_filters_and_tests(struct parser *parser, struct node *node)
{
    while (node) {
        if (token_is(parser, '|'))
            node = parse_filters(parser, node, false);
        else if (token_is_name(parser, "is"))
            node = parse_test(parser, node);
        else if (token_is(parser, '('))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

static struct node *parse_unary(struct parser *parser, bool with_filters)
{
    struct node *node;

    if (++parser->depth > TREE_HEIGHT_MAX) {
        parse_fail(parser, "expressions are nested too deeply");
        return NULL;
    }
    if (token_is(parser, '-') || token_is(parser, '+')) {
        node = node_new(parser, NODE_UNARY, parser->token->line);
        node->op = (parser->token++)->op;
        node->left = parse_unary(parser, false);
        node = node->left && node_seal(parser, node) ? node : NULL;
    } else {
        node = parse_primary(parser);
    }
    node = parse_postfix(parser, node);
    if (with_filters)
        node = parse_filters_and_tests(parser, node);
    parser->depth--;
    return node;
}

static bool at_operator(const struct parser *parser, const uint16_t *ops)
{
    if (parser->token->kind != TOKEN_OPERATOR)
        return false;
    for (; *ops; ops++)
        if (parser->token->op == *ops)
            return true;
    return false;
}

static struct node *parse_power(struct parser *parser)
{
    static const uint16_t ops[] = {OPERATOR2('*', '*'), 0};
    struct node *left = parse_unary(parser, true);

    while (left && at_operator(parser, ops)) {
        const struct jinja_token *token = parser->token++;
        left = binary(parser, NODE_BINARY, token->op, token->line, left, parse_unary(parser, true));
    }
    return left;
}

static struct node *parse_product(struct parser *parser)
{
    static const uint16_t ops[] = {'*', '/', OPERATOR2('/', '/'), '%', 0};
    struct node *left = parse_power(parser);

    while (left && at_operator(parser, ops)) {
        const struct jinja_token *token = parser->token++;
        left = binary(parser, NODE_BINARY, token->op, token->line, left, parse_power(parser));
    }
    return left;
}

static struct node *parse_concat(struct parser *parser)
{
    struct node *first = parse_product(parser), *node, *item;
    struct node_list list;

    if (!first || !token_is(parser, '~'))
        return first;
    node = node_new(parser, NODE_CONCAT, parser->token->line);
    list = (struct node_list){.end = &node->items};
    node_list_add(&list, first);
    while (token_skip(parser, '~')) {
        if (!(item = parse_product(parser)))
            return NULL;
        node_list_add(&list, item);
    }
    return node_seal(parser, node) ? node : NULL;
}

static struct node *parse_sum(struct parser *parser)
{
    static const uint16_t ops[] = {'+', '-', 0};
    struct node *left = parse_concat(parser);

    while (left && at_operator(parser, ops)) {
        const struct jinja_token *token = parser->token++;
        left = binary(parser, NODE_BINARY, token->op, token->line, left, parse_concat(parser));
    }
    return left;
}

/* The comparison operator here, consumed, or 0. */
static uint16_t take_comparison(struct parser *parser)
{
    static const uint16_t ops[] = {OPERATOR2('=', '='), OPERATOR2('!', '='), '<', '>',
                                   OPERATOR2('<', '='), OPERATOR2('>', '='), 0};

    if (at_operator(parser, ops))
        return (parser->token++)->op;
    if (token_skip_name(parser, "in"))
        return OPERATOR_IN;
    if (token_is_name(parser, "not") && parser->token[1].kind == TOKEN_NAME && str_is(parser->token[1].text, "in")) {
        parser->token += 2;
        return OPERATOR_NOT_IN;
    }
    return 0;
}

static struct node *parse_comparison(struct parser *parser)
{
    struct node *left = parse_sum(parser), *node = NULL;
    struct node_list list = {0};

    while (left) {
        uint32_t line = parser->token->line;
        uint16_t op = take_comparison(parser);
        struct node *operand;
        if (!op)
            break;
        if (!node) {
            node = node_new(parser, NODE_COMPARE, line);
            node->left = left;
            list.end = &node->items;
        }
        operand = node_new(parser, NODE_OPERAND, line);
        operand->op = op;
        if (!(operand->left = parse_sum(parser)) || !node_seal(parser, operand))
            return NULL;
        node_list_add(&list, operand);
    }
    if (!node)
        return left;
    return node_seal(parser, node) ? node : NULL;
}

static struct node *parse_not(struct parser *parser)
{
    struct node *node;

    if (!token_is_name(parser, "not"))
        return parse_comparison(parser);
    if (++parser->depth > TREE_HEIGHT_MAX) {
        parse_fail(parser, "expressions are nested too deeply");
        return NULL;
    }
    node = node_new(parser, NODE_NOT, (parser->token++)->line);
    node->left = parse_not(parser);
    parser->depth--;
    return node->left && node_seal(parser, node) ? node : NULL;
}

static struct node *parse_and(struct parser *parser)
{
    struct node *left = parse_not(parser);

    while (left && token_is_name(parser, "and")) {
        uint32_t line = (parser->token++)->line;
        left = binary(parser, NODE_AND, 0, line, left, parse_not(parser));
    }
    return left;
}

static struct node *parse_without_condition(struct parser *parser)
{
    struct node *left = parse_and(parser);

    while (left && token_is_name(parser, "or")) {
        uint32_t line = (parser->token++)->line;
        left = binary(parser, NODE_OR, 0, line, left, parse_and(parser));
    }
    return left;
}

/* What was unknown in the parts of a condition is forgiven once the "if" behind them is seen. */
struct node *parse_expression(struct parser *parser)
{
    struct node *unknown = parser->unknown;
    struct node *value = parse_without_condition(parser);

    while (value && token_is_name(parser, "if")) {
        struct node *node = node_new(parser, NODE_CONDITION, (parser->token++)->line);
        node->left = value;
        if (!(node->right = parse_without_condition(parser)))
            return NULL;
        if (token_skip_name(parser, "else") && !(node->third = parse_expression(parser)))
            return NULL;
        parser->unknown = unknown;
        value = node_seal(parser, node) ? node : NULL;
    }
    return value;
}
