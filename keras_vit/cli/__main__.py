from keras_vit.cli import main

main()
