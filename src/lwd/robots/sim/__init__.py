"""robots/sim"""
