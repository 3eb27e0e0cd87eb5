import pytest

from keras_vit.data import AUGMENTATIONS, SOURCES
from keras_vit.names import listed, nearest
from keras_vit.training import RECIPES


@pytest.mark.parametrize(
    "table, name, message",
    [
        (RECIPES, "finetun", "Unknown recipe; there is 'finetune'"),
        (RECIPES, "DEIT3-B", "Unknown recipe; there is 'deit3_b'"),
        (AUGMENTATIONS, "inceptoin", "Unknown augmentation; there is 'inception'"),
        (SOURCES, "fashion-mnist", "Unknown data source, and no folder of this name; there is 'fashion_mnist'"),
        (SOURCES, 3, "Unknown data source, and no folder of this name; there is 'digits', 'fashion_mnist'. Received: 3"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(table, name, message):
    for error in (KeyError, ValueError):
        with pytest.raises(error) as caught:
            table[name]
        assert str(caught.value).startswith(message)
    assert table.get(name) is None and name not in table  # else a plain dict


def test_all_names_where_none_is_near():
    assert nearest("zzz", ["b", "a"]) == ["a", "b"]


def test_a_long_list_is_cut():
    assert listed(map(str, range(100)), most=2) == "'0', '1' and 98 more"
