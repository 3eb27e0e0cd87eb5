"""Augmentation of training images: published policies, and the functions that they consist of."""

from keras_vit.data.augmentation.batches import affine, cutmix, cutout, mirror, mixup, mixup_or_cutmix, pad_and_crop, whole_labels
from keras_vit.data.augmentation.crops import inception_crop, random_resized_crop, resize_and_crop, simple_random_crop
from keras_vit.data.augmentation.images import color_jitter, flip, random_erasing, three_augment
from keras_vit.data.augmentation.policies import AUGMENTATIONS, Augmentation, named_augmentation, open_augmentation
from keras_vit.data.augmentation.randaugment import rand_augment
