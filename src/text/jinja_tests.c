/* "x is …" */
#include "text/jinja_builtin.h"
#include "text/jinja_text.h"

static bool answer(struct value *result, bool holds)
{
    *result = value_bool(holds);
    return true;
}

#define TYPE_TEST(name, condition)                                                                                     \
    static bool test_##name(struct run *run, struct call *call, struct value *result)                                  \
    {                                                                                                                  \
        struct value input = call->input;                                                                              \
        return answer(result, condition);                                                                              \
    }
TYPE_TEST(defined, input.type != VALUE_UNDEFINED)
TYPE_TEST(undefined, input.type == VALUE_UNDEFINED)
TYPE_TEST(none, input.type == VALUE_NONE)
TYPE_TEST(boolean, input.type == VALUE_BOOL)
TYPE_TEST(true, input.type == VALUE_BOOL && input.boolean)
TYPE_TEST(false, input.type == VALUE_BOOL && !input.boolean)
TYPE_TEST(integer, input.type == VALUE_INT)
TYPE_TEST(float, input.type == VALUE_FLOAT)
TYPE_TEST(number, value_is_number(input))
TYPE_TEST(string, input.type == VALUE_STRING)
TYPE_TEST(mapping, input.type == VALUE_DICT)
TYPE_TEST(escaped, input.type == VALUE_STRING && input.is_markup)
TYPE_TEST(callable, input.type == VALUE_FUNCTION || input.type == VALUE_MACRO || input.type == VALUE_JOINER)
/* Undefined iterates, over nothing. */
TYPE_TEST(iterable, input.type == VALUE_STRING || input.type == VALUE_LIST || input.type == VALUE_DICT ||
                        input.type == VALUE_UNDEFINED)
TYPE_TEST(sequence,
          input.type == VALUE_STRING || input.type == VALUE_DICT || input.type == VALUE_UNDEFINED ||
              (input.type == VALUE_LIST && (input.list->kind <= LIST_TUPLE || input.list->kind == LIST_RANGE)))

static bool test_divisibleby(struct run *run, struct call *call, struct value *result)
{
    struct value rest;

    if (!value_binary(run, '%', call->input, call->arg[0], &rest))
        return false;
    return answer(result, value_is_number(rest) && value_number(rest) == 0);
}

static bool test_parity(struct run *run, struct call *call, struct value *result)
{
    struct value rest;

    if (!value_binary(run, '%', call->input, value_int(2), &rest))
        return false;
    return answer(result, value_is_number(rest) && value_number(rest) == (call->builtin->name[0] == 'o'));
}

static bool test_eq(struct run *run, struct call *call, struct value *result)
{
    bool is_equal;

    return value_equal(run, call->input, call->arg[0], &is_equal) && answer(result, is_equal);
}

static bool test_ne(struct run *run, struct call *call, struct value *result)
{
    bool is_equal;

    return value_equal(run, call->input, call->arg[0], &is_equal) && answer(result, !is_equal);
}

#define ORDER_TEST(name, sign, condition)                                                                              \
    static bool test_##name(struct run *run, struct call *call, struct value *result)                                  \
    {                                                                                                                  \
        int order;                                                                                                     \
        return value_compare(run, call->input, call->arg[0], sign, &order) &&                                          \
               answer(result, order != ORDER_NONE && order condition);                                                 \
    }
ORDER_TEST(lt, "<", < 0)
ORDER_TEST(le, "<=", <= 0)
ORDER_TEST(gt, ">", > 0)
ORDER_TEST(ge, ">=", >= 0)

static bool test_in(struct run *run, struct call *call, struct value *result)
{
    bool contains;

    return value_contains(run, call->arg[0], call->input, &contains) && answer(result, contains);
}

static bool test_sameas(struct run *run, struct call *call, struct value *result)
{
    struct value a = call->input, b = call->arg[0];
    bool is_same = a.type == b.type;

    if (is_same && (a.type == VALUE_LIST || a.type == VALUE_DICT))
        return answer(result, a.list == b.list);
    if (is_same && !value_equal(run, a, b, &is_same))
        return false;
    return answer(result, is_same);
}

/* At least one cased character and none of the other case. */
static bool is_all_case(struct str text, bool (*is_wanted)(uint32_t codepoint))
{
    uint32_t codepoint;
    size_t len;
    bool has_cased = false;

    for (; (len = utf8_decode(text, &codepoint)); text = str_slice(text, len, text.len)) {
        if (text_is_cased(codepoint) && !is_wanted(codepoint))
            return false;
        has_cased |= text_is_cased(codepoint);
    }
    return has_cased;
}

static bool test_case(struct run *run, struct call *call, struct value *result)
{
    struct str text;

    return value_text(run, call->input, &text) && run_charge_text(run, text.len * 8) &&
           answer(result, is_all_case(text, call->builtin->name[0] == 'u' ? text_is_upper : text_is_lower));
}

static bool test_filter(struct run *run, struct call *call, struct value *result)
{
    return answer(result, call->input.type == VALUE_STRING && builtin_find(&jinja_filters, call->input.text));
}

static bool test_test(struct run *run, struct call *call, struct value *result)
{
    return answer(result, call->input.type == VALUE_STRING && builtin_find(&jinja_tests, call->input.text));
}

static const struct builtin tests[] = {
    {"defined", test_defined, ""},   {"undefined", test_undefined, ""}, {"none", test_none, ""},
    {"boolean", test_boolean, ""},   {"true", test_true, ""},           {"false", test_false, ""},
    {"integer", test_integer, ""},   {"float", test_float, ""},         {"number", test_number, ""},
    {"string", test_string, ""},     {"mapping", test_mapping, ""},     {"iterable", test_iterable, ""},
    {"sequence", test_sequence, ""}, {"callable", test_callable, ""},   {"escaped", test_escaped, ""},
    {"odd", test_parity, ""},        {"even", test_parity, ""},         {"divisibleby", test_divisibleby, "num"},
    {"eq", test_eq, "other"},        {"equalto", test_eq, "other"},     {"==", test_eq, "other"},
    {"ne", test_ne, "other"},        {"!=", test_ne, "other"},          {"lt", test_lt, "other"},
    {"lessthan", test_lt, "other"},  {"<", test_lt, "other"},           {"le", test_le, "other"},
    {"<=", test_le, "other"},        {"gt", test_gt, "other"},          {"greaterthan", test_gt, "other"},
    {">", test_gt, "other"},         {"ge", test_ge, "other"},          {">=", test_ge, "other"},
    {"in", test_in, "seq"},          {"sameas", test_sameas, "other"},  {"lower", test_case, ""},
    {"upper", test_case, ""},        {"filter", test_filter, ""},       {"test", test_test, ""},
};
const struct builtin_table jinja_tests = {tests, sizeof tests / sizeof *tests};
