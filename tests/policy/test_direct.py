from __future__ import annotations

import pytest

from understudy.policy.direct import decide_request, provider_shaped
from understudy.policy.model import Target
from understudy.reasons import Reason

POLICY = """
gateway:
  url: https://gateway.example
  kind: cloudflare
  settings: {account: acc, gateway: gw}
connections:
  openai: {provider: openai, secret: {env: OPENAI}}
  claude: {provider: anthropic, secret: {env: ANTHROPIC}, inject: always}
allow:
  - {name: claude, connection: claude, paths: [/v1/models]}
  - {name: gpt, connection: openai, paths: [/v1/chat/completions, /v1/models]}
"""


@pytest.fixture
def policy(load_text):
    return load_text(POLICY).policy


def ask(policy, path, presented=None, host="gateway.example"):
    return decide_request(policy, Target("GET", "https", host, 443, path), presented)


def test_path_at_the_gateway_is_judged_as_the_path_of_the_provider(policy):
    assert ask(policy, "/v1/acc/gw/openai/models", "openai").rule == "gpt"
    assert ask(policy, "/v1/acc/gw/anthropic/v1/models", "claude").rule == "claude"
    denied = ask(policy, "/v1/acc/gw/openai/files", "openai")
    assert denied.reason is Reason.PATH_NOT_ALLOWED


def test_without_placeholder_a_rule_judges_the_path_of_its_own_provider(policy):
    # Read as OpenAI's, the path is /v1/models, which the Anthropic rule allows as well; but sent
    # with Anthropic's key it would be another path.
    target = Target("GET", "https", "gateway.example", 443, "/v1/acc/gw/openai/models")
    assert provider_shaped(policy, target, None).path == "/v1/models"
    verdict = decide_request(policy, target, None)
    assert not verdict.allow
    assert verdict.connection is None


def test_path_elsewhere_stays_as_it_is(policy):
    assert ask(policy, "/v1/models", "openai", "api.openai.com").rule == "gpt"
    assert ask(policy, "/v1/acc/gw/openai/models", "openai", "api.openai.com").rule is None
    target = Target("GET", "https", "api.openai.com", 443, "/x")
    assert provider_shaped(policy, target, "openai") is target
