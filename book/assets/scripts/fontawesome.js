// In the place of the theme's, which draws the icons of its fonts a second time (1.5 MB).
