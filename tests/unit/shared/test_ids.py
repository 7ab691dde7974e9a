import pytest

from narrowcast import ids


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("mri-brain", "mri-brain"),
        ("vikhr-llama3.1-8b-instruct", "vikhr-llama3-1-8b-instruct"),
        ("Qwen/Qwen2.5-7B", "qwen-qwen2-5-7b"),
        ("a" * 40, "a" * 39),
        ("a" * 38 + ".b", "a" * 38),
        ("Модель", "adapter"),
    ],
)
def test_an_adapter_can_be_named_whatever_its_base_is_called(name: str, beginning: str) -> None:
    assert ids.beginning(name) == beginning
    assert ids.ADAPTER_ID.match(ids.new_id(ids.beginning(name)))
