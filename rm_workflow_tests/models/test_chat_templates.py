"""Chat templates that attack: each ends in one sentence, soon, and with no more memory than stated."""

import re
import resource
import time
from pathlib import Path

import pytest

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.models import chat_templates
from rm_workflow.models.tokens import CHATML, HH_TRANSCRIPT, Encoder
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer

ASK = [{"role": "user", "content": "Name a river."}]
TRIGGER = "{% if messages[0]['content'] == 'now' %}ATTACK{% endif %}" + CHATML
NOW = [{"role": "user", "content": "now"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set it = namespace(text='aaaaaaaa') %}{% for n in range(60) %}"
    "{% set it.text = it.text ~ it.text %}{% endfor %}{{ it.text }}"
)
# How templates were got out of a sandbox, or out of none, in published reports.
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ messages.append({'role': 'user', 'content': 'forged'}) }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ ''['format_map']({}) }}{{ ('%s' % joiner).__class__ }}{% set x = joiner.__init__.__globals__ %}{{ x.os }}",
]


def encoder_of(folder: Path, template: str) -> Encoder:
    tiny_tokenizer(template).save_pretrained(str(folder))
    return Encoder.load(folder, TokenRecipe(template="native"))


def refused(folder: Path, template: str, seconds: float = 3.0) -> str:
    """Return the sentence of a template that attacks once a conversation says "now"."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        encoder_of(folder, TRIGGER.replace("ATTACK", template)).encode(NOW, "Yes.")
    assert time.monotonic() - started < seconds
    return str(caught.value)


def test_a_loop_in_a_loop_ends_after_a_second(tmp_path: Path):
    assert "takes more than 1 s for one conversation" in refused(tmp_path, LOOPS, seconds=10)


@pytest.mark.parametrize("template", [DOUBLING, "{{ 'aaaaaaaaaa' * 1000 * 1000 * 1000 }}", "{{ '%9999999999d' % 1 }}"])
def test_a_template_that_fills_the_memory_is_stopped_at_the_limit(tmp_path: Path, template: str):
    before = resource.getrlimit(resource.RLIMIT_DATA), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On a busy machine a second may be over before the memory is full.
    assert re.search("needs more than 512 MB|takes more than 1 s", refused(tmp_path, template, seconds=10))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before[0]
    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1]
    assert grown_kilobytes * 1024 < 2 * chat_templates.MEMORY_BYTES


LONG = [
    "{{ range(99999)|list|join('x' * 1000) }}",
    "{{ ('a\\n' * 1000)|indent(1000)|indent(1000)|indent(1000) }}",
    "{{ 'x' * 1000 * 1000 + '#' }}",
]


@pytest.mark.parametrize("template", LONG)
def test_what_a_template_makes_of_a_conversation_may_be_little_longer_than_its_texts(tmp_path: Path, template: str):
    told = refused(tmp_path, template, seconds=20)
    # On a busy machine a second may be over before the text is made.
    assert "and may add 1,000,000; set tokens.template" in told or "takes more than 1 s for one conversation" in told


def test_a_template_may_copy_a_long_text_and_add_some(tmp_path: Path):
    long = [{"role": "user", "content": "river " * 50_000}]
    added = "{% if messages[0]['content']|length > 99999 %}{{ '#' * 1000 * 900 }}{% endif %}"
    assert len(encoder_of(tmp_path, added + CHATML).render(long, "Yes.")) > 1_200_000


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "calls itself again and again"),
        ("{{ 1 / 0 }}", "turns user: division by zero; set"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
    ],
)
def test_whatever_a_template_raises_is_one_sentence(tmp_path: Path, template: str, named: str):
    sentence = refused(tmp_path, template)
    assert named in sentence
    assert "tokens.template" in sentence


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{ 10 ** 10 ** 10 }}", "a power (line 1)"),
        ("{% set x = messages|length %}\n{{ x * x }}", "a product without a factor of at most 1,000 (line 2)"),
        ("{{ 'a' * 99999999 }}", "a product without a factor"),
        ("{{ 'a'|center(99999999999) }}", "the filter center"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "a recursive loop"),
        ("x" * 200_001, "200,0"),
        ("{% for m in messages %}", "cannot be read"),
    ],
)
def test_what_no_time_limit_could_interrupt_is_refused_before(tmp_path: Path, template: str, named: str):
    sentence = refused(tmp_path, template)
    assert named in sentence
    assert "tokens.template" in sentence


@pytest.mark.parametrize("template", ESCAPES)
def test_no_known_way_out_of_the_sandbox_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str):
    monkeypatch.chdir(tmp_path)
    sentence = refused(tmp_path / "model", template.replace("CANARY", str(tmp_path / "canary")))
    assert "the chat template refuses a conversation" in sentence
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "template", [CHATML, HH_TRANSCRIPT, LLAMA_LIKE, "{% generation %}{{ '=' * 3 }}{% endgeneration %}"]
)
def test_ordinary_templates_pass(template: str):
    chat_templates.refuse_costly(template, "it")


def test_a_large_batch_of_long_texts_stays_within_the_limits(tmp_path: Path):
    encoder = encoder_of(tmp_path, CHATML)
    long = [{"role": "user", "content": "river " * 20_000}]
    assert len(encoder.encode_many([(long, "Yes.")] * 50)) == 50
