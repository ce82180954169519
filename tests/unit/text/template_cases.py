"""Writes template_cases.h: small templates of our own and what jinja2 3.1.6 makes of them in transformers' settings.

    python3 template_cases.py > template_cases.h        (needs: pip install jinja2==3.1.6)
"""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

VARIABLES = {
    "s": "héllo wörld", "pad": "  \n x y \t", "n": 7, "neg": -3, "f": 2.5, "zero": 0, "yes": True, "no": False, "nil": None,
    "list": [3, 1, 2], "words": ["b", "A", "c", "a"], "empty": [], "d": {"b": 1, "a": {"x": [1, 2]}, "c": "t"},
    "rows": [{"n": "x", "v": 2, "k": "p"}, {"n": "y", "v": 1, "k": "q"}, {"n": "z", "v": 3, "k": "p"}],
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}], "html": "<a href=\"x\">'&'</a>",
    "quote": "it's \"q\"\\\n\u00a0\u200b", "control": "a\u0001\u001f\u007f\"\\/é\U0001F600", "big": 9223372036854775807, "small": 1e-5, "large": 1e16,
}

CASES = r"""
== literals
{{ 1 }} {{ 1.0 }} {{ 1e3 }} {{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }} {{ 1.5e-7 }} {{ small }} {{ large }} {{ 123456789.123 }} {{ 0.1 + 0.2 }}
{{ true }} {{ False }} {{ none }} {{ None }} {{ 'a' "b" }} {{ 'a\n\t\x41\u00e9\'\q\101' }}
{{ [1, 'a', none, true, 2.0] }} {{ (1,) }} {{ (1, 2) }} {{ () }} {{ {'a': 1, 2: [3]} }} {{ {} }} {{ [] }}
{{ quote }} {{ [quote] }} {{ ["it's"] }} {{ ['"'] }} {{ [s] }}
{{ [1, 2,] }} {{ {'a': 1,} }} {{ 1, 2 }}
== arithmetic
{{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}
{{ 1 + 2.0 }} {{ 3 * 'ab' }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ [0] * 3 }} {{ -n }} {{ +n }} {{ -f }} {{ true + true }} {{ 1 - -1 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 + 3 * 4 ** 2 }} {{ (2 + 3) * 4 }} {{ 10 - 2 - 3 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 1 ~ 2 ~ none ~ [1] ~ missing }} {{ 1 + 2 ~ 3 * 4 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 'a' }}
{{ missing + 1 }}
{{ -'a' }}
{{ [] + {} }}
== comparison
{{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' == 1 }} {{ [1, 2] == [1, 2.0] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1.0} }} {{ none == none }} {{ missing == other }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 2 >= 2 }} {{ 1 != 2 }} {{ 1 > 2 }} {{ 3 <= 2 }}
{{ 'l' in s }} {{ 'z' not in s }} {{ 2 in list }} {{ 'a' in d }} {{ 5 in missing }} {{ not 1 in [1] }}
{{ 1 and 0 }} {{ 0 or 'x' }} {{ not '' }} {{ '' or missing or 'y' }} {{ 'a' if yes else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 1 in 5 }}
{{ 1 in 'a' }}
{{ 'a' in nil }}
== access
{{ d.b }} {{ d['b'] }} {{ d.a.x[1] }} {{ d.a.x.0 }} {{ list[-1] }} {{ s[1] }} {{ s[-1] }} {{ d.zz }}| {{ d['zz'] }}| {{ list[9] }}| {{ s.zz }}|
{{ list[1:] }} {{ list[:-1] }} {{ list[::-1] }} {{ list[::2] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[-3:] }} {{ s[5:2] }} {{ list[-100:100] }} {{ s[:n] }} {{ list[2:0:-1] }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d.keys() }} {{ d.items() }}
{{ d.zz.yy }}
{{ missing.a }}
{{ missing['a'] }}
{{ missing() }}
{{ s.zz() }}
{{ n() }}
{{ list.append(1) }}
{{ d.update({}) }}
{{ list[::0] }}
{{ {[1]: 2} }}
== whitespace
a  {%- if yes -%}  b  {%- endif -%}  c
a\n  {% if yes %}\n  b\n  {% endif %}\nc
  {% if yes %}x{% endif %}\n
a {# note #}\nb\n  {# note #}  \n c
a\n  {%+ if yes %} b{% endif +%}\n c
x {{- ' y ' -}} z
{% raw %}{{ a }} {% b %}{% endraw %} c
{% raw -%}  {{ a }}  {%- endraw %}  c
{{ '}}' }}{{ {'a': {}}['a'] }}{{ "%}" }}
a\r\nb\rc\n\n
{{ 1 }}\n{% set x = 1 %}\n{{ x }}\n
{%- set x = '-' -%} {{x}} {#- c -#} !
== if
{% if zero %}a{% elif n > 5 %}b{% elif yes %}c{% else %}d{% endif %}{% if empty %}a{% else %}{% if s %}e{% endif %}{% endif %}
{% if not missing %}u{% endif %}{% if d %}d{% endif %}{% if 0.0 %}x{% endif %}{% if 'a', %}t{% endif %}
{% if yes %}
{% endif %}
{% if %}a{% endif %}
== for
{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}
{% for x in list %}{{ loop.previtem }}-{{ loop.nextitem }}-{{ loop.cycle('a', 'b') }}-{{ loop.changed(x > 1) }}-{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for x in list if x > 1 %}{{ x }}{{ loop.index }}{{ loop.last }};{% else %}none{% endfor %}{% for x in list if x > 5 %}{{ x }}{% else %}none{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}
{% for c in 'aé' %}{{ c }}.{% endfor %}{% for x in missing %}x{% else %}e{% endfor %}{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y='a') %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns['x'] }}
{% for x in 1, 2 %}{{ x }}{% endfor %}{% for m in messages[::-1] %}{{ m.role }}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% break %}
{% for x in list %}
{% for true in list %}{% endfor %}
== set
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set t %}x{{ a }}y{% endset %}{{ t }}{% set u | upper | trim %} q {% endset %}{{ u }}
{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}{% if yes %}{% set x = 3 %}{% endif %}{{ x }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set z = 1 %}{% endwith %}{{ a }}{{ z }}
{% filter upper %}a{{ s }}{% endfilter %}{% filter trim | title %} ab cd {% endfilter %}
{% set d.x = 1 %}
{% set 1 = 2 %}
{% set x %}
== macro
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m(b=5, a=4) }}{{ m() }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% set g = 'old' %}{% macro m() %}{{ g }}{% set g = 'in' %}{{ g }}{% endmacro %}{% set g = 'new' %}{{ m() }}{{ g }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}
{% macro outer(x) %}{{ inner(x) }}{% endmacro %}{% macro inner(x) %}<{{ x }}>{% endmacro %}{{ outer(1) }}{% set t = outer('é') %}{{ t | length }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(*[1, 2]) }}{{ m(**{'a': 3}) }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{% macro m(a=1, b) %}{% endmacro %}
== generation
{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}é{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}
{%- generation -%} a {%- endgeneration -%} b{% generation %}{% endgeneration %}c{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}
== tojson
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ list | tojson(indent=0) }} {{ control | tojson }} {{ control | tojson(ensure_ascii=true) }} {{ html | tojson }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ {1: 2, true: 3, none: 4, 1.5: 5} | tojson }} {{ [1.0, none, true, 1e20] | tojson }} {{ () | tojson }} {{ {} | tojson(indent=4) }} {{ [[], {}] | tojson(indent='>') }} {{ 'x' | tojson }} {{ rows | tojson(indent=4, separators=(', ', ': ')) }}
{{ missing | tojson }}
{{ list | map('string') | tojson }}
{{ {(1, 2): 3} | tojson }}
== filters on text
{{ s | upper }} {{ 'ÀB' | lower }} {{ 'straße' | upper }} {{ s | title }} {{ "o'neil-smith (x) mcDONALD" | title }} {{ s | capitalize }} {{ 'ABC' | capitalize }} {{ n | upper }} {{ missing | upper }}|
[{{ pad | trim }}] [{{ 'xxaxx' | trim('x') }}] {{ s | length }} {{ s | count }} {{ s | replace('l', 'L') }} {{ s | replace('l', 'L', 1) }} {{ s | reverse }} {{ s | first }}{{ s | last }} {{ 'a b' | list }}
{{ 'a\nb\n\nc' | indent }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ') }} {{ 'a b  c-d' | wordcount }} [{{ 'ab' | center(7) }}]
{{ html | e }} {{ html | escape | e }} {{ html | safe }} {{ '<' + ('<' | safe) }} {{ ('<' | safe) ~ '<' }} {{ [html | safe] }} {{ '%s: %d' | format('a', 2) }} {{ '%(a)s' | format(a=1) }}
{{ 5 | string }} {{ none | string }} {{ missing | string }}| {{ missing | default('x') }} {{ '' | default('x') }}| {{ '' | default('x', true) }} {{ none | d('x', boolean=true) }} {{ missing | d }}|
{{ d | attr('b') }}| {{ s | attr('upper') is callable }}
{{ s | nonsense }}
{% if no %}{{ s | nonsense }}{% endif %}ok
{{ 'a' if no else s | nonsense }}
{{ s | replace('a') }}
{{ s | upper(1) }}
{% if yes %}{{ s | nonsense }}{% endif %}
== filters on numbers
{{ -3 | abs }} {{ neg | abs }} {{ -2.5 | abs }} {{ '42' | int }} {{ ' 42 ' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 4.9 | int }} {{ 'ff' | int(base=16) }} {{ '0x1f' | int(0, 16) }} {{ none | int }} {{ true | int }}
{{ '1.5' | float }} {{ 3 | float }} {{ 'x' | float }} {{ 'x' | float(2.5) }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 7 | round }} {{ 0.125 | round(2) }}
{{ missing | int }}
{{ 'a' | abs }}
== filters on rows
{{ list | sort }} {{ list | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ rows | sort(attribute='v') | map(attribute='n') | list }} {{ rows | sort(attribute='k,v') | map(attribute='n') | join }}
{{ list | join(', ') }} {{ list | join }} {{ rows | join('-', attribute='n') }} {{ 'abc' | join('.') }} {{ [1, none, missing, 'x'] | join('|') }} {{ list | first }} {{ list | last }} {{ empty | first }}| {{ empty | last }}|
{{ list | length }} {{ d | length }} {{ missing | length }} {{ list | sum }} {{ rows | sum(attribute='v') }} {{ [1.5, 2] | sum(start=1) }} {{ list | min }} {{ list | max }} {{ words | max }} {{ rows | min(attribute='v') }} {{ empty | max }}|
{{ d | items | list }} {{ missing | items | list }} {{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }} {{ {'b': 1, 'A': 2} | dictsort(true) }}
{{ words | map('upper') | list }} {{ rows | map(attribute='v') | list }} {{ rows | map(attribute='zz', default='-') | list }} {{ list | map('string') | join(',') }} {{ ['a-b'] | map('replace', '-', '+') | list }} {{ none | map('upper') | list }} {{ [[1, 2], [3, 4]] | map(attribute=1) | list }}
{{ list | select('odd') | list }} {{ list | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ list | select('greaterthan', 1) | list }} {{ rows | selectattr('k', 'equalto', 'p') | map(attribute='n') | list }} {{ rows | rejectattr('k', '==', 'p') | map(attribute='n') | list }} {{ rows | selectattr('zz') | list }} {{ rows | selectattr('n', 'in', ['x', 'z']) | list | length }} {{ none | selectattr('a') | list }} {{ rows | selectattr('zz', 'defined') | list }}
{{ ['a', 'A', 'b', 'a'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ rows | unique(attribute='k') | map(attribute='n') | list }} {{ list | reverse | list }} {{ [1, 2, 3] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 0) | list }} {{ list | list }} {{ d | list }}
{% for k, g in rows | groupby('k') %}{{ k }}:{{ g | map(attribute='n') | join }};{% endfor %} {% for g in rows | groupby('k') %}{{ g[0] }}{{ g[1] | length }}{% endfor %}
{% set g = list | select('odd') %}{{ g | list }}{{ g | list }}
{{ [1, 'a'] | sort }}
{{ 5 | length }}
{{ none | list }}
{{ none | join }}
{{ list | map('nonsense') | list }}
{{ list | select('nonsense') | list }}
{{ s | items | list }}
{{ list | dictsort }}
{{ list | map('upper') | length }}
== tests
{{ missing is defined }} {{ n is defined }} {{ missing is undefined }} {{ d.zz is defined }} {{ nil is none }} {{ nil is not none }} {{ yes is true }} {{ no is false }} {{ 1 is true }} {{ yes is boolean }} {{ 1 is boolean }}
{{ n is integer }} {{ yes is integer }} {{ f is float }} {{ n is float }} {{ n is number }} {{ yes is number }} {{ s is number }} {{ s is string }} {{ n is string }} {{ (html | safe) is string }} {{ d is mapping }} {{ list is mapping }}
{{ s is iterable }} {{ list is iterable }} {{ n is iterable }} {{ nil is iterable }} {{ missing is iterable }} {{ s is sequence }} {{ d is sequence }} {{ list is sequence }} {{ n is sequence }} {{ missing is sequence }} {{ (1, 2) is sequence }} {{ d.items() is sequence }} {{ range(2) is sequence }}
{{ 3 is odd }} {{ 3 is even }} {{ -3 is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 1 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 1 is gt 2 }} {{ 1 is ge 1 }} {{ 1 is in [1] }} {{ 1 is not in [1] }}
{{ 'ab' is lower }} {{ 'aB' is lower }} {{ 'AB' is upper }} {{ '1' is upper }} {{ none is sameas none }} {{ 1 is sameas true }} {{ range is callable }} {{ s is callable }} {{ s.upper is callable }} {{ 'upper' is filter }} {{ 'zz' is filter }} {{ 'odd' is test }} {{ html | safe is escaped }}
{{ n is nonsense }}
{{ n is defined is none }}
{{ 'a' is odd }}
== str methods
[{{ pad.strip() }}] [{{ pad.lstrip() }}] [{{ pad.rstrip() }}] {{ 'xyaxy'.strip('xy') }} {{ 'aab'.lstrip('a') }} {{ 'a\n\n'.rstrip('\n') }} {{ s.upper() }} {{ s.title() }} {{ "they're x2y".title() }} {{ s.capitalize() }} {{ 'aB'.swapcase() }} {{ 'AB'.lower() }}
{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ ' a  b c'.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a</t>b'.split('</t>')[-1] }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'ab'.partition('=') }}
{{ s.startswith('hé') }} {{ s.endswith('x') }} {{ s.endswith(('x', 'ld')) }} {{ s.startswith(()) }} {{ s.replace('l', '') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ s.find('w') }} {{ s.find('z') }} {{ s.rfind('l') }} {{ s.index('l') }} {{ s.count('l') }} {{ 'ab'.count('') }}
{{ '-'.join(['a', 'b']) }} {{ 'ab'.removeprefix('a') }} {{ 'ab'.removesuffix('b') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} [{{ 'a'.ljust(3) }}] [{{ 'a'.rjust(3, '.') }}] [{{ 'ab'.center(5) }}] [{{ 'a'.center(4) }}] {{ '12'.isdigit() }} {{ 'é'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ ''.isdigit() }} {{ 'a'.islower() }} {{ 'A'.isupper() }}
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format(1, 2) }} {{ '{a:>5}|{b:05.1f}|{c!r}'.format(a='x', b=2.25, c='q') }} {{ '{{}}'.format() }} {{ '{:,}'.format(1234567) }} {{ '{:x}'.format(255) }} {{ '{:<4}|{:^5}|{:*>4}'.format(1, 'a', 2.5) }} {{ '{:.2%}'.format(0.256) }} {{ '{:+d}'.format(3) }}
{{ '%s %r %d %i %5.2f %x %X %o %e %g %% %c' % ('a', 'b', 3, 4.7, 3.14159, 255, 255, 8, 12345.678, 0.0001, 'z') }} {{ '%s' % 5 }} {{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }} {{ '%-5s|%5s|%+d|% d|%05d' % ('a', 'b', 1, 2, -3) }} {{ '%.2s' % 'abc' }} {{ '%s' % [1] }} {{ '%s' % none }}
{{ 'a'.split('') }}
{{ 'a'.startswith(1) }}
{{ 'a'.index('b') }}
{{ ','.join([1]) }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ 'a' % 1 }}
{{ '{}'.format() }}
{{ 'a'.split(1) }}
== list methods
{{ list.index(1) }} {{ [1, 2, 1].count(1) }} {{ (1, 2).index(2) }} {{ d.copy() == d }} {{ list.append is defined }}
{{ list.index(9) }}
{{ list.pop() }}
{{ d.pop('a') }}
== globals
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ range(3)[1] }} {{ range(3) | length }} {{ 2 in range(3) }} {{ range(1, 7, 2) }} {{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=2) }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('; ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %A %B %j %-d %I %p %y %% %f%Z') }}
{{ raise_exception('no ' ~ n) }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ range() }}
{% set ns = namespace() %}{{ ns.a }}|{{ ns.a.b }}
== syntax errors
{{ 1
{% if x
{{ (1 }}
{{ 1 + }}
{{ }}
{{ 'a }}
{# a
{% endif %}
{% if yes %}{% endfor %}
{% nonsense %}
{{ a b }}
{{ f(a=1, 2) }}
{{ 1 ? 2 }}
{% for in list %}{% endfor %}
{% raw %} a
"""


class Generation(jinja2.ext.Extension):
    """What transformers' AssistantTracker does, far enough for small templates."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller):
        text = caller()
        start = len("".join(self.environment.blocks))
        self.environment.spans.append([start, start + len(text)])
        return text


def make_environment():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def fail(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2024, 7, 26, 14, 30, 5).strftime(form)
    return environment


def render(source):
    environment = make_environment()
    environment.blocks, environment.spans = [], []
    try:
        template = environment.from_string(source)
        for block in template.root_render_func(template.new_context(json.loads(json.dumps(VARIABLES)))):
            environment.blocks.append(block)
        return "".join(environment.blocks), environment.spans
    except Exception:
        return None, []


def quoted(text):
    if text is None:
        return "NULL"
    out = ""
    for byte in text.encode():
        char = chr(byte)
        out += "\\" + char if char in '"\\' else "\\n" if char == "\n" else char if 32 <= byte < 127 and char != "?" else "\\%03o" % byte
    return '"' + out + '"'


def main():
    print("/* Made by template_cases.py with jinja2 %s; not edited by hand. */" % jinja2.__version__)
    print("/* clang-format off */")
    print("static const char template_variables[] = %s;\n" % quoted(json.dumps(VARIABLES)))
    print("static const struct template_case {\n    const char *group, *source, *text, *spans; /* text NULL: an error */\n} template_cases[] = {")
    group = ""
    for line in CASES.strip().split("\n"):
        if line.startswith("== "):
            group = line[3:]
            continue
        source = line
        if group == "whitespace" or group == "generation":
            source = line.replace("\\r", "\r").replace("\\n", "\n")
        text, spans = render(source)
        print("    {%s, %s,\n     %s, %s}," % (quoted(group), quoted(source), quoted(text), quoted(json.dumps(spans))))
    print("};")


main()
