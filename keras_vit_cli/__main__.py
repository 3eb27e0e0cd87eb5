from keras_vit_cli import main

main()
